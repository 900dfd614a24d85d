"""What sounds, numbers and spaces look like: figures in the house style, pictures of sound, players and cards."""
