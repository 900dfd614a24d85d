"""Figures in the house style, pictures of sound, audio players and result cards."""
