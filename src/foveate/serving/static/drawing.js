"use strict";
// Draws boxes, masks and heat maps on a canvas. `scale`: canvas pixels per pixel of the image.

// the palette of Okabe and Ito, which color-blind people can tell apart
const COLORS = [
  [213, 94, 0], [0, 114, 178], [0, 158, 115], [204, 121, 167],
  [230, 159, 0], [86, 180, 233], [240, 228, 66], [110, 110, 110],
];
// from low to high
const HEAT = [[30, 20, 80], [110, 30, 110], [190, 55, 85], [240, 120, 40], [250, 225, 90]];

const classColor = index => COLORS[index % COLORS.length];
const css = ([red, green, blue]) => `rgb(${red}, ${green}, ${blue})`;

// Decodes the compressed run lengths of COCO: five bits a character from "0" on, the lowest first;
// from the fourth number on, each is the difference from the number two before it
function runLengths(text) {
  const lengths = [];
  for (let index = 0; index < text.length;) {
    let number = 0, shift = 0, character;
    do {
      character = text.charCodeAt(index++) - 48;
      number |= (character & 31) << shift;
      shift += 5;
    } while (character & 32);
    if (character & 16) number |= -1 << shift;
    lengths.push(lengths.length > 2 ? number + lengths[lengths.length - 2] : number);
  }
  return lengths;
}

// 1 for each pixel inside, column by column
function decodeMask(mask) {
  const inside = new Uint8Array(mask.size[0] * mask.size[1]);
  let start = 0;
  runLengths(mask.counts).forEach((length, index) => {
    if (index % 2) inside.fill(1, start, start + length);
    start += length;
  });
  return inside;
}

// Draws masks in the colors of the classes `indices`; returns the share of the image that each
// covers
function drawMasks(context, masks, indices) {
  const { width, height } = context.canvas, layer = new ImageData(width, height);
  const shares = masks.map((mask, number) => {
    const inside = decodeMask(mask), [rows, columns] = mask.size;
    const color = [...classColor(indices[number]), 130];
    for (let y = 0; y < height; y++) for (let x = 0; x < width; x++) {
      const row = Math.floor((y + 0.5) * rows / height);
      const column = Math.floor((x + 0.5) * columns / width);
      if (inside[column * rows + row]) layer.data.set(color, 4 * (y * width + x));
    }
    return inside.reduce((sum, each) => sum + each, 0) / inside.length;
  });
  drawLayer(context, layer, 0, 0, width, height);
  return shares;
}

// Draws boxes with their names, in the colors of the classes `indices`
function drawBoxes(context, boxes, indices, scale) {
  context.lineWidth = 3;
  context.font = "14px system-ui, sans-serif";
  boxes.forEach((box, number) => {
    const [x0, y0, x1, y1] = box.xyxy.map(each => each * scale);
    const labelWidth = context.measureText(box.name).width + 8;
    const left = Math.max(0, Math.min(x0, context.canvas.width - labelWidth));
    const top = Math.max(0, y0 - 20);
    context.strokeStyle = context.fillStyle = css(classColor(indices[number]));
    context.strokeRect(x0, y0, x1 - x0, y1 - y0);
    context.fillRect(left, top, labelWidth, 20);
    context.fillStyle = "#fff";
    context.fillText(box.name, left + 4, top + 15);
  });
}

// Draws a heat map, (h, w) in [0, 1], over the rectangle `view` of the image
function drawHeatmap(context, map, view, scale) {
  const layer = new ImageData(map[0].length, map.length);
  const [x0, y0, x1, y1] = view.map(each => each * scale);
  map.flat().forEach((value, index) => {
    const step = Math.min(value * (HEAT.length - 1), HEAT.length - 1.001);
    const low = HEAT[Math.floor(step)], high = HEAT[Math.floor(step) + 1];
    const color = low.map((each, channel) => each + (step % 1) * (high[channel] - each));
    layer.data.set([...color, 160], 4 * index);
  });
  drawLayer(context, layer, x0, y0, x1 - x0, y1 - y0);
}

// Returns which of nine parts of a map has the highest value: 0 to 8, row by row
function brightestPart(map) {
  const values = map.flat(), columns = map[0].length;
  const index = values.indexOf(Math.max(...values));
  const third = (cell, count) => Math.floor(3 * (cell + 0.5) / count);
  return 3 * third(Math.floor(index / columns), map.length) + third(index % columns, columns);
}

function drawLayer(context, layer, x, y, width, height) {
  const small = document.createElement("canvas");
  small.width = layer.width;
  small.height = layer.height;
  small.getContext("2d").putImageData(layer, 0, 0);
  context.imageSmoothingQuality = "high";
  context.drawImage(small, x, y, width, height);
}
