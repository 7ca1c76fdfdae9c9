// Where a picture shows a text: a map over it, as `xsearch explain` draws it.

const OPACITY = 0.8;
/** A map is drawn relative to its hottest region, but below this heat it fades. */
const LEAST_PEAK = 0.05;
/** matplotlib's perceptually uniform map inferno, at quarters. */
const COLOURS = [[0, 0, 4], [87, 16, 110], [188, 55, 84], [249, 142, 9], [252, 255, 164]];

/** Draw a map, row-major over `grid` = [rows, columns] of the part `frame` of the picture, on a canvas over the picture. */
export function draw(canvas, heat, [rows, columns], frame) {
  const regions = new ImageData(columns, rows);
  const peak = Math.max(...heat, LEAST_PEAK);
  heat.forEach((one, at) => regions.data.set([...colour(one / peak), (255 * OPACITY * one) / peak], 4 * at));
  const small = new OffscreenCanvas(columns, rows);
  small.getContext("2d").putImageData(regions, 0, 0);
  const { clientWidth: width, clientHeight: height } = canvas;
  [canvas.width, canvas.height] = [width, height];
  // Enlarged, it is smooth between the middles of regions, and in the middles what was found.
  canvas.getContext("2d").drawImage(small, frame.left * width, frame.top * height, frame.width * width, frame.height * height);
}

function colour(strength) {
  const at = Math.min(Math.max(strength, 0), 1) * (COLOURS.length - 1);
  const [low, high] = [COLOURS[Math.floor(at)], COLOURS[Math.ceil(at)]];
  return low.map((channel, index) => channel + (high[index] - channel) * (at % 1));
}
