"""Sources in many files: their parts."""

from refusals import refused

from arrag.utils.globs import files_of, num_source_parts, source_part


def test_parts_are_all_files_once_and_need_not_be_there():
    source = "nowhere/{00..22}.tar"
    for parts in (1, 2, 7, 23):
        files = [f for i in range(parts) for f in files_of(source_part(source, i, parts))]
        assert files == [f"nowhere/{i:02d}.tar" for i in range(23)]
    for images, parts in {1: 1, 10: 1, 11: 2, 230: 23, 9999: 23, None: 23}.items():
        assert num_source_parts(source, images, 10) == parts
    for bad, parts in ((source, 24), ("{a,b}/0.tar", 1)):
        with refused():
            source_part(bad, 0, parts)
