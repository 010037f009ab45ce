"use strict";
// What is painted over a picture: boxes, masks of objects and of regions, and the map of where the network looked.
// A pen is a canvas' context; `scale`: its pixels for one of the upright original.

// of Okabe and Ito: they can be told apart by eyes that see fewer colours
const COLOURS = [[213, 94, 0], [0, 114, 178], [0, 158, 115], [204, 121, 167], [230, 159, 0], [86, 180, 233], [240, 228, 66], [110, 110, 110]];
const HEAT = [[30, 20, 80], [110, 30, 110], [190, 55, 85], [240, 120, 40], [250, 225, 90]]; // from little to much

const colour = place => COLOURS[place % COLOURS.length];
const css = ([red, green, blue]) => `rgb(${red}, ${green}, ${blue})`;

// COCO's compressed run lengths: five bits a letter from "0" on, the lowest first; a number from the fourth on is the difference from the one before the last
function runLengths(text) {
  const found = [];
  for (let at = 0; at < text.length;) {
    let number = 0, shift = 0, letter;
    do {
      letter = text.charCodeAt(at++) - 48;
      number |= (letter & 31) << shift;
      shift += 5;
    } while (letter & 32);
    if (letter & 16) number |= -1 << shift;
    found.push(found.length > 2 ? number + found[found.length - 2] : number);
  }
  return found;
}

// 1 for each pixel inside, down the columns
function decoded(mask) {
  const inside = new Uint8Array(mask.size[0] * mask.size[1]);
  let at = 0;
  runLengths(mask.counts).forEach((length, place) => {
    if (place % 2) inside.fill(1, at, at + length);
    at += length;
  });
  return inside;
}

// Paints masks, each in the colour of its place in `places`; gives the share of the picture that each takes
function paintMasks(pen, masks, places) {
  const { width, height } = pen.canvas, layer = new ImageData(width, height);
  const shares = masks.map((mask, number) => {
    const inside = decoded(mask), [rows, columns] = mask.size, own = colour(places[number]);
    for (let y = 0; y < height; y++) for (let x = 0; x < width; x++) {
      if (!inside[Math.floor((x + 0.5) * columns / width) * rows + Math.floor((y + 0.5) * rows / height)]) continue;
      layer.data.set([...own, 130], 4 * (y * width + x));
    }
    return inside.reduce((sum, each) => sum + each, 0) / inside.length;
  });
  lay(pen, layer, 0, 0, width, height);
  return shares;
}

function paintBoxes(pen, boxes, places, scale) {
  pen.lineWidth = 3;
  pen.font = "14px system-ui, sans-serif";
  boxes.forEach((box, number) => {
    const [x0, y0, x1, y1] = box.xyxy.map(each => each * scale), wide = pen.measureText(box.name).width + 8;
    const left = Math.max(0, Math.min(x0, pen.canvas.width - wide)), top = Math.max(0, y0 - 20);
    pen.strokeStyle = pen.fillStyle = css(colour(places[number]));
    pen.strokeRect(x0, y0, x1 - x0, y1 - y0);
    pen.fillRect(left, top, wide, 20);
    pen.fillStyle = "#fff";
    pen.fillText(box.name, left + 4, top + 15);
  });
}

// The map (h, w) over the rectangle of the picture that it was made for
function paintHeat(pen, map, view, scale) {
  const layer = new ImageData(map[0].length, map.length), [x0, y0, x1, y1] = view.map(each => each * scale);
  map.flat().forEach((share, place) => {
    const step = Math.min(share * (HEAT.length - 1), HEAT.length - 1.001), low = HEAT[Math.floor(step)], high = HEAT[Math.floor(step) + 1];
    layer.data.set([...low.map((each, channel) => each + (step % 1) * (high[channel] - each)), 160], 4 * place);
  });
  lay(pen, layer, x0, y0, x1 - x0, y1 - y0);
}

// Which of nine parts of the map holds the most, 0 to 8, row by row
function brightest(map) {
  const flat = map.flat(), place = flat.indexOf(Math.max(...flat)), wide = map[0].length;
  const third = (cell, cells) => Math.floor(3 * (cell + 0.5) / cells);
  return 3 * third(Math.floor(place / wide), map.length) + third(place % wide, wide);
}

function lay(pen, layer, x, y, width, height) {
  const small = document.createElement("canvas");
  small.width = layer.width;
  small.height = layer.height;
  small.getContext("2d").putImageData(layer, 0, 0);
  pen.imageSmoothingQuality = "high";
  pen.drawImage(small, x, y, width, height);
}
