"use strict";
/* From a picture to the input of the network, by the steps of preprocessing.json. Browsers resize canvases as they
   like, so the resizing is Pillow's and PyTorch's, in their arithmetic: pixels that are the same give the same input as
   `nat2 predict`. (Pillow 13 resizes pictures much higher than wide along the other axis first; that changes the
   rounding.) */

const FRACTION = 2 ** 22; // Pillow's weights are integers with this denominator
const STRIP = 2 ** 20; // pixels of a picture that are decoded to memory at a time: phones refuse larger canvases

function bicubic(x) {
  const a = -0.5, at = Math.abs(x);
  if (at < 1) return ((a + 2) * at - (a + 3)) * at * at + 1;
  return at < 2 ? (((at - 5) * at + 8) * at - 4) * a : 0;
}

function triangle(x) {
  return Math.max(0, 1 - Math.abs(x));
}

/** For each of `size` places the first of the values it is made of, and their weights. */
function weights(kernel, support, first, last, size, count) {
  const scale = (last - first) / size, wider = Math.max(scale, 1), reach = support * wider;
  return Array.from({ length: size }, (_, place) => {
    const center = first + (place + 0.5) * scale;
    const from = Math.max(0, Math.trunc(center - reach + 0.5));
    const to = Math.min(count, Math.trunc(center + reach + 0.5));
    const values = Array.from({ length: to - from }, (_, n) => kernel((n + from - center + 0.5) * (1 / wider)));
    const total = values.reduce((sum, each) => sum + each, 0);
    return { from, values: values.map(each => each / total) };
  });
}

function whole(taps) {
  return taps.map(({ from, values }) => ({
    from, values: values.map(each => Math.trunc(each * FRACTION + (each < 0 ? -0.5 : 0.5))),
  }));
}

function rounded(sum) {
  return Math.min(255, Math.max(0, Math.floor((sum + FRACTION / 2) / FRACTION)));
}

/** The part of a picture that becomes the square: left, top, right, bottom; halves of pixels are possible. */
function centreSquare(width, height) {
  const side = Math.min(width, height), left = (width - side) * 0.5, top = (height - side) * 0.5;
  return [left, top, left + side, top + side];
}

/** Rows of a picture on white, as bytes red, green, blue, alpha; a function of the first row and their number. */
function rowsOf(picture, width) {
  const canvas = document.createElement("canvas");
  canvas.width = width;
  return (first, count) => {
    canvas.height = count;
    const context = canvas.getContext("2d", { willReadFrequently: true, colorSpace: "srgb" });
    context.imageSmoothingEnabled = false;
    context.fillStyle = "#fff";
    context.fillRect(0, 0, width, count);
    context.drawImage(picture, 0, first, width, count, 0, 0, width, count);
    return context.getImageData(0, 0, width, count).data;
  };
}

/** The centre square of a picture at `side` pixels: bytes, height x width x channels. As PIL.ImageOps.fit, bicubic. */
function fitted(picture, width, height, side, channels) {
  const [left, top, right, bottom] = centreSquare(width, height);
  const across = whole(weights(bicubic, 2, left, right, side, width));
  const down = whole(weights(bicubic, 2, top, bottom, side, height));
  const same = side === width && side === height;
  const first = down[0].from, last = down[side - 1].from + down[side - 1].values.length;
  const rows = rowsOf(picture, width), strip = Math.max(1, Math.floor(STRIP / width));
  const narrow = new Uint8Array((last - first) * side * channels);
  for (let y = first; y < last; y += strip) {
    const count = Math.min(strip, last - y), data = rows(y, count);
    if (channels === 1) makeGrey(data);
    for (let row = 0; row < count; row++) {
      const begin = row * width * 4, into = (y - first + row) * side * channels;
      for (let x = 0; x < side; x++) {
        for (let c = 0; c < channels; c++) {
          narrow[into + x * channels + c] = same ? data[begin + 4 * x + c] : along(data, across[x], begin + c, 4);
        }
      }
    }
  }
  if (same) return narrow;
  const result = new Uint8Array(side * side * channels), step = side * channels;
  for (let y = 0; y < side; y++) {
    const taps = { from: down[y].from - first, values: down[y].values };
    for (let place = 0; place < step; place++) result[y * step + place] = along(narrow, taps, place, step);
  }
  return result;
}

function along(data, { from, values }, begin, step) {
  let sum = 0;
  for (let n = 0; n < values.length; n++) sum += values[n] * data[begin + (from + n) * step];
  return rounded(sum);
}

/** Red becomes grey, as Pillow computes it. */
function makeGrey(data) {
  for (let at = 0; at < data.length; at += 4) {
    data[at] = (data[at] * 19595 + data[at + 1] * 38470 + data[at + 2] * 7471 + 0x8000) >> 16;
  }
}

/** The middle of a square of bytes at `size` pixels: floats 0..1, channels x height x width. As torch, antialiased. */
function resized(square, side, channels, { first, middle, size }) {
  const taps = size === middle
    ? Array.from({ length: size }, (_, from) => ({ from, values: [1] }))
    : weights(triangle, 1, 0, middle, size, middle);
  const result = new Float32Array(channels * size * size), narrow = new Float64Array(middle * size);
  for (let c = 0; c < channels; c++) {
    for (let y = 0; y < middle; y++) {
      for (let x = 0; x < size; x++) {
        let sum = 0;
        taps[x].values.forEach((weight, n) => {
          sum += weight * square[((first + y) * side + first + taps[x].from + n) * channels + c];
        });
        narrow[y * size + x] = sum / 255;
      }
    }
    for (let y = 0; y < size; y++) {
      for (let x = 0; x < size; x++) {
        let sum = 0;
        taps[y].values.forEach((weight, n) => { sum += weight * narrow[(taps[y].from + n) * size + x]; });
        result[(c * size + y) * size + x] = sum;
      }
    }
  }
  return result;
}
