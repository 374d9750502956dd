"Files of every kind become the right pixels, or are refused with what was found."
from io import BytesIO
import re
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from fundus_nbdev.core.errors import PhotoError, TableError
from fundus_nbdev.data.arrays import read_npz
from fundus_nbdev.photos.photo import cc0_photo, open_photo

RGB = cv2.resize(open_photo(cc0_photo()), (100, 80), interpolation=cv2.INTER_AREA)
GREY = RGB.max(2)
BGR = np.ascontiguousarray(RGB[..., ::-1])
IN_GREY = np.repeat(GREY[..., None], 3, 2)
TOP = int(GREY.max())


# files

def chunk(kind, content): return struct.pack('>I', len(content)) + kind + content + struct.pack('>I', zlib.crc32(kind + content))


def png(values, bits=(), turn=1): # bytes
    "A PNG; its sBIT chunk says how many bits of each channel count, its eXIf chunk how the camera was held."
    data = cv2.imencode('.png', values)[1].tobytes()
    exif = chunk(b'eXIf', struct.pack('>2sHIHHHIHHI', b'MM', 42, 8, 1, 274, 3, 1, turn, 0, 0))
    return data[:33] + exif + (chunk(b'sBIT', bytes(bits)) if bits else b'') + data[33:]


def tiff(values, bits=16, white=None, orientation=1): # bytes
    "A TIFF of one strip whose numbers have 8 to 16 bits; `white` is its MaxSampleValue."
    height, width, channels = np.atleast_3d(values).shape
    digits = (values.reshape(height, -1, 1).astype(np.uint16) >> np.arange(bits - 1, -1, -1)) & 1
    strip = values.astype('<u2').tobytes() if bits == 16 else np.packbits(digits.reshape(height, -1), 1).tobytes()
    tags = {256: [width], 257: [height], 258: [bits] * channels, 259: [1], 262: [2 if channels > 1 else 1], 273: [8],
            274: [orientation], 277: [channels], 278: [height], 279: [len(strip)], 281: [white] * channels, 284: [1]}
    if white is None: del tags[281]
    entries, tail, start = b'', b'', 8 + len(strip) + 2 + 12 * len(tags) + 4
    for tag, found in tags.items():
        long = tag in (257, 256, 273, 278, 279)
        raw = struct.pack(f'<{len(found)}{"I" if long else "H"}', *found)
        entries += struct.pack('<HHI', tag, 4 if long else 3, len(found))
        entries += raw.ljust(4, b'\0') if len(raw) <= 4 else struct.pack('<I', start + len(tail))
        if len(raw) > 4: tail += raw
    return struct.pack('<2sHI', b'II', 42, 8 + len(strip)) + strip + struct.pack('<H', len(tags)) + entries + bytes(4) + tail


def encoded(values, ending): return cv2.imencode(ending, values)[1].tobytes()


def saved(values, kind, **options): # bytes, by Pillow
    buffer = BytesIO()
    Image.fromarray(values).save(buffer, kind, **options)
    return buffer.getvalue()


def with_alpha(values, opaque): return np.dstack([values, np.full(GREY.shape, opaque, values.dtype)])


def arrays(**named):
    buffer = BytesIO()
    np.savez(buffer, **named)
    return buffer.getvalue()


DEEP, DEEP_GREY = BGR.astype(np.uint16), GREY.astype(np.uint16)
PGM = b'P5 100 80 %d\n'
READ = { # name: (file, expected pixels)
    'grey8.png': (png(GREY), IN_GREY),
    'rgb16.png': (png(DEEP * 257), RGB),
    'grey16.png': (png(DEEP_GREY * 257), IN_GREY),
    'rgba16.png': (png(with_alpha(DEEP * 257, 65535)), RGB),
    'clear16.png': (png(with_alpha(DEEP * 257, 0)), RGB * 0),
    'rgb16.tif': (encoded(DEEP * 257, '.tif'), RGB),
    'grey16.tif': (encoded(DEEP_GREY * 257, '.tif'), IN_GREY),
    'turned16.tif': (tiff(DEEP[..., ::-1] * 257, orientation=6), np.rot90(RGB, -1)),
    'turned16_grey.tif': (tiff(DEEP_GREY * 257, orientation=6), np.rot90(IN_GREY, -1)),
    'turned8_grey.tif': (tiff(GREY, bits=8, orientation=6), np.rot90(IN_GREY, -1)),
    'turned16.png': (png(DEEP * 257, turn=6), np.rot90(RGB, -1)),
    'turned16_grey.png': (png(DEEP_GREY * 257, turn=6), np.rot90(IN_GREY, -1)),
    'turned32.tif': (saved((GREY / 255).astype(np.float32), 'TIFF', tiffinfo={274: 6}), np.rot90(IN_GREY, -1)),
    'black16.png': (png(DEEP * 0), RGB * 0),
    'black16.tif': (encoded(DEEP_GREY * 0, '.tif'), RGB * 0),
    'black32.tif': (saved(GREY.astype(np.int32) * 0, 'TIFF'), RGB * 0),
    # the file says its depth
    'said12_grey.png': (png(DEEP_GREY * 16, [12]), IN_GREY),
    'said12_rgb.png': (png(DEEP * 16, [12] * 3), RGB),
    'said12_rgba.png': (png(with_alpha(DEEP * 16, 4095), [12] * 4), RGB),
    'said12_opaque.png': (png(with_alpha(DEEP * 16, 65535), [12] * 3 + [16]), RGB),
    'said16_dark.png': (png(DEEP_GREY * 50, [16]), IN_GREY * (50 / 257)),
    'upper12.png': (png(DEEP * 257, [12] * 3), RGB),
    'said12_grey.tif': (tiff(DEEP_GREY * 16, white=4095), IN_GREY),
    'said12_rgb.tif': (tiff(DEEP[..., ::-1] * 16, white=4095), RGB),
    'said10.tif': (tiff(DEEP_GREY * 4, white=1023), IN_GREY),
    'packed12_grey.tif': (tiff(DEEP_GREY * 16, bits=12), IN_GREY),
    'packed10_grey.tif': (tiff(DEEP_GREY * 4, bits=10), IN_GREY),
    'packed12_rgb.tif': (tiff(DEEP[..., ::-1] * 16, bits=12), RGB),
    'packed14_rgb.tif': (tiff(DEEP[..., ::-1] * 64, bits=14), RGB),
    'wrong_white.tif': (tiff(DEEP[..., ::-1] * 257, white=255), RGB), # a number that the file itself disproves
    'said12.pgm': (PGM % 4095 + (DEEP_GREY * 16).astype('>u2').tobytes(), IN_GREY),
    'said16.pgm': (PGM % 65535 + (DEEP_GREY * 257).astype('>u2').tobytes(), IN_GREY),
    'grey16.jp2': (saved(DEEP_GREY * 257, 'JPEG2000'), IN_GREY),
    # floats from 0 to 1
    'float.tif': (saved((GREY / 255).astype(np.float32), 'TIFF'), IN_GREY),
    'float_rgb.tif': (encoded((BGR / 255).astype(np.float32), '.tif'), RGB),
    'double_rgb.tif': (encoded(BGR / 255, '.tif'), RGB),
    'nan.tif': (saved(np.where(GREY > 20, GREY / 255, np.nan).astype(np.float32), 'TIFF'), np.where(IN_GREY > 20, IN_GREY, 0)),
    # arrays
    'eight.npz': (arrays(x=RGB[None]), RGB),
    'grey.npz': (arrays(x=GREY[None]), IN_GREY),
    'sixteen.npz': (arrays(x=RGB[None].astype(np.uint16) * 257), RGB),
    'float.npz': (arrays(x=RGB[None] / np.float32(255)), RGB),
    'half.npz': (arrays(x=(RGB[None] / 255).astype(np.float16)), RGB),
    'dark_first.npz': (arrays(x=np.stack([RGB // 8, RGB]) / 255), RGB // 8)}
REFUSED = { # name: (file, range that is named)
    'grey12.tif': (encoded(DEEP_GREY * 16, '.tif'), f'uint16 values from 0 to {TOP * 16}'),
    'rgb12.tif': (encoded(DEEP * 16, '.tif'), f'uint16 values from 0 to {TOP * 16}'),
    'rgb12.png': (png(DEEP * 16), f'uint16 values from 0 to {TOP * 16}'),
    'rgba12.png': (png(with_alpha(DEEP * 16, 65535)), f'uint16 values from 0 to {TOP * 16}'),
    'rgb14.png': (png(DEEP * 64), f'uint16 values from 0 to {TOP * 64}'),
    'grey8in16.png': (png(DEEP_GREY), f'uint16 values from 0 to {TOP}'),
    'wrong_white.tif': (tiff(DEEP * 16, white=255), f'uint16 values from 0 to {TOP * 16}'),
    'int32.tif': (saved(GREY.astype(np.int32), 'TIFF'), f'int32 values from 0 to {TOP}'),
    'int16.tif': (encoded(BGR.astype(np.int16), '.tif'), f'int16 values from 0 to {TOP}'),
    'float255.tif': (saved(GREY.astype(np.float32), 'TIFF'), f'float32 values from 0 to {TOP}'),
    'above1.tif': (encoded((BGR / 200).astype(np.float32), '.tif'), f'float32 values from 0 to {TOP / 200:.7g}'),
    'minus1.tif': (encoded((BGR / 127.5 - 1).astype(np.float32), '.tif'), 'float32 values from -1 to'),
    'infinite.tif': (saved(np.where(GREY > 99, np.inf, 0).astype(np.float32), 'TIFF'), 'float32 values from 0 to inf'),
    'int64.npz': (arrays(x=RGB[None].astype(np.int64)), f'int64 values from 0 to {TOP}'),
    'twelve.npz': (arrays(x=RGB[None].astype(np.uint16) * 16), f'uint16 values from 0 to {TOP * 16}'),
    'minus1.npz': (arrays(x=RGB[None] / 127.5 - 1), 'float64 values from -1 to'),
    'dark_first.npz': (arrays(x=np.stack([RGB > 99, RGB]).astype(np.float32)), f'float32 values from 0 to {TOP}')}


def file(tmp_path, name, content): # its path, as `open_photo` takes it
    (tmp_path/name).write_bytes(content)
    return f'{tmp_path/name}#0' if name.endswith('.npz') else tmp_path/name


@pytest.mark.parametrize('name', READ)
def test_numbers_of_a_known_scale_are_read(tmp_path, name):
    content, expected = READ[name]
    found = open_photo(file(tmp_path, name, content))
    assert found.dtype == np.uint8 and found.shape == expected.shape
    assert abs(found.astype(float) - expected).max() <= 1


@pytest.mark.parametrize('name', REFUSED)
def test_numbers_of_an_unknown_scale_are_refused_with_their_range(tmp_path, name):
    content, found = REFUSED[name]
    with pytest.raises(PhotoError, match=re.escape(found)) as error: open_photo(file(tmp_path, name, content))
    assert '8 bits' in error.value.remedy or 'uint8' in error.value.remedy


@pytest.mark.parametrize('ending', ['.tif', '.png'])
def test_the_remedy_is_one(tmp_path, ending):
    path = file(tmp_path, f'deep{ending}', encoded(DEEP * 16, ending))
    with pytest.raises(PhotoError) as error: open_photo(path)
    assert "cv2.imwrite('eye.png', cv2.imread('eye.tif', -1) / 4095 * 255)" in error.value.remedy
    cv2.imwrite(str(tmp_path/'eye.png'), cv2.imread(str(path), -1) / 4095 * 255)
    assert abs(open_photo(tmp_path/'eye.png').astype(float) - RGB).max() <= 1


@pytest.mark.parametrize('kind', ['int64', 'int32', 'int8', 'uint32', 'bool', 'complex64'])
def test_an_array_of_a_wrong_type_is_no_table(tmp_path, kind):
    path = tmp_path/'x.npz'
    path.write_bytes(arrays(x=RGB[None].astype(kind), y=np.array([0])))
    with pytest.raises(TableError, match=rf"x\.npz: x holds {kind}.*x\.astype\('uint8'\)"): read_npz(path)


# JPEGs without their end

SKY = np.where(np.arange(80)[:, None, None] < 50, RGB, 0).astype(np.uint8) # the lower part is black
KINDS = {'plain': {}, 'no subsampling': dict(subsampling=0), 'own tables': dict(optimize=True), 'progressive': dict(progressive=True),
         'restart each block': dict(restart_marker_blocks=1), 'restart each row': dict(restart_marker_rows=1)}


@pytest.mark.parametrize('kind', KINDS)
@pytest.mark.parametrize('picture', [RGB, GREY, SKY], ids=['colour', 'grey', 'black below'])
def test_only_the_end_marker_may_be_missing(tmp_path, picture, kind):
    whole = saved(picture, 'JPEG', quality=85, **KINDS[kind])
    expected = open_photo(file(tmp_path, 'whole.jpg', whole))
    for missing in (1, 2): assert (open_photo(file(tmp_path, 'cut.jpg', whole[:-missing])) == expected).all()
    markers = [len(whole) - m.start() for m in re.finditer(rb'\xff[\xc4\xda\xd0-\xd7]', whole)]
    for missing in [*range(3, 40), *markers, len(whole) // 2, len(whole) // 4]:
        path = file(tmp_path, 'cut.jpg', whole[:-missing])
        try: found = open_photo(path)
        except PhotoError: continue
        assert (found == expected).all(), f'{missing} bytes are missing, and other pixels were read'
    with pytest.raises(PhotoError, match='cut short'): open_photo(file(tmp_path, 'cut.jpg', whole[:-20]))


def test_a_small_version_is_read_without_the_end_marker(tmp_path):
    path = file(tmp_path, 'cut.jpg', cc0_photo().read_bytes()[:-2])
    assert (open_photo(path, 300) == open_photo(cc0_photo(), 300)).all()
