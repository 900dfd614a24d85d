"""Corpora: scores rendered to audio with captions, and readers of folders of audio."""
