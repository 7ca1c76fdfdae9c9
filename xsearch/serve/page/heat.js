// Where a picture shows a text: a map over it, as `xsearch explain` draws it.

const OPACITY = 0.8;
/** A map is drawn relative to its hottest region, but below this heat it fades. */
const LEAST_PEAK = 0.05;
/** matplotlib's perceptually uniform map inferno, at quarters. */
const COLOURS = [[0, 0, 4], [87, 16, 110], [188, 55, 84], [249, 142, 9], [252, 255, 164]];

/**
 * Draw a map, row-major over `grid` = [rows, columns] of the part `frame` of the picture, on a canvas over the picture:
 * smooth between the middles of regions. What the encoder did not see stays clear.
 */
export function draw(canvas, heat, [rows, columns], frame) {
  const { clientWidth: width, clientHeight: height } = canvas;
  [canvas.width, canvas.height] = [width, height];
  const down = spread(rows, frame.top, frame.height, height);
  const across = spread(columns, frame.left, frame.width, width);
  const peak = Math.max(...heat, LEAST_PEAK);
  const shades = Array.from({ length: 256 }, (_, shade) => [...colour(shade / 255), OPACITY * shade]);
  const packed = new Uint32Array(Uint8ClampedArray.from(shades.flat()).buffer);
  const map = new ImageData(width, height);
  const pixels = new Uint32Array(map.data.buffer);
  down.forEach((row, y) => {
    if (!row) return;
    const [above, below, dy] = [row[0] * columns, row[1] * columns, row[2]];
    across.forEach((column, x) => {
      if (!column) return;
      const [left, right, dx] = column;
      const upper = heat[above + left] * (1 - dx) + heat[above + right] * dx;
      const lower = heat[below + left] * (1 - dx) + heat[below + right] * dx;
      pixels[y * width + x] = packed[Math.round((255 * (upper * (1 - dy) + lower * dy)) / peak)];
    });
  });
  canvas.getContext("2d").putImageData(map, 0, 0);
}

/**
 * Return for each of `size` pixels between which two of `n` cells, spread over `share` of the side from `start` on, its
 * middle lies, and how near to the second; null beyond the cells.
 */
function spread(n, start, share, size) {
  return Array.from({ length: size }, (_, px) => {
    const at = (((px + 0.5) / size - start) / share) * n - 0.5;
    if (at < -0.5 || at > n - 0.5) return null;
    const [low, high] = [Math.max(Math.floor(at), 0), Math.min(Math.ceil(at), n - 1)];
    return [low, high, Math.max(at - low, 0)];
  });
}

function colour(strength) {
  const at = strength * (COLOURS.length - 1);
  const [low, high] = [COLOURS[Math.floor(at)], COLOURS[Math.ceil(at)]];
  return low.map((channel, index) => channel + (high[index] - channel) * (at % 1));
}
