"""Studio and Lab, without a screen: play with the space of music from any cell. `view` shows them as widgets."""
