"""Virtual ingestion: references to the chunks of files in other formats.

Parsers are those of VirtualiZarr, kerchunk, cfgrib and virtual-tiff (extra ``icechunk[virtual]``);
this package finds the files, says how they are reached, and writes the references.
"""
