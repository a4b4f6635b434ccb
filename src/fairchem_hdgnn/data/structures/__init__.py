"""From files of structures to records: names, formats, pairs, tables, labels."""
