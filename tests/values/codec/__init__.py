"""Tests of codecs, which encrypt what a job keeps."""
