"""HDGNN: read ``message.py`` (section 3.2), ``update.py`` (3.3), ``network.py`` (3.1, 3.4) together with the paper."""
