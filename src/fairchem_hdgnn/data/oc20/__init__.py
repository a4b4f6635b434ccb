"""OC20 as published: fetched, verified, unpacked, and its frames turned into LMDBs."""
