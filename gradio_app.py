"""The question page: ``python gradio_app.py [--host] [--port] [--corpus]``. Importing it does nothing."""

from accel.dashboard.app import main

if __name__ == "__main__":
    raise SystemExit(main())
