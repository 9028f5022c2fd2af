"""From bytes to pixels, exactly: frames of videos by number, images, packets for GPU decoders."""
