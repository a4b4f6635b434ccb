"""Obtain OC20 as published: download, verify, unpack, convert its frames to LMDBs."""
