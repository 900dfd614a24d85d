"""Studio, Lab, Surface and Library for a notebook: play with the space of music.

`studio.Studio` and `lab.Lab` hold the state. `studio.StudioView`, `lab_view.LabView`, `surface.SurfaceView` and
`library_view.LibraryView` show them (and a `musekit.library.Library`) as widgets.
"""

MAX_UPLOAD_BYTES = 512 * 2**20
#: Settings of the notebook server. Tornado's own limit of 10 MiB a message ends the connection of a larger upload.
TORNADO_SETTINGS = {"websocket_max_message_size": MAX_UPLOAD_BYTES + 2**20}
