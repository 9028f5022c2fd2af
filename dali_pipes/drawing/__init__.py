"""A labelled clip as a picture: frames, flow, chosen blocks, directions, colours, and words."""
