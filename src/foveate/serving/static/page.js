"use strict";
const TEXTS = {
  en: {
    drop: "Drop or paste an image here, or press Enter to choose a file",
    model: "Model", camera: "Use camera", shoot: "Take photo",
    class: "Class", probability: "Probability", share: "Share of the image",
    token: "Access token", wait: "Predicting …", offline: "The server does not respond",
    uncertain: "uncertain", unfamiliar: "unlike the training images", none: "Nothing detected",
    explain: "Show heat map", strongest: "Strongest evidence: ", other: "中文",
    parts: ["top left", "top", "top right", "left", "center", "right",
      "bottom left", "bottom", "bottom right"],
  },
  zh: {
    drop: "将图片拖放或粘贴到这里，或按回车键选择文件",
    model: "模型", camera: "使用相机", shoot: "拍照",
    class: "类别", probability: "概率", share: "占画面比例",
    token: "访问令牌", wait: "正在预测……", offline: "服务器没有响应",
    uncertain: "置信度不足", unfamiliar: "与训练图片差异较大", none: "未检测到目标",
    explain: "显示热力图", strongest: "主要依据的区域：", other: "English",
    parts: ["左上", "上方", "右上", "左侧", "中央", "右侧", "左下", "下方", "右下"],
  },
};
const OOD_LIMIT = 0.99; // percentile of `ood` from which an image counts as unfamiliar
const MAX_ROWS = 8; // of the table of scores
const element = id => document.getElementById(id);
const text = key => TEXTS[language][key];
const percent = (share, digits = 0) => (100 * share).toFixed(digits) + " %";
let language = navigator.language.startsWith("zh") ? "zh" : "en";
let stream = null, requestCount = 0;
let file = null; // the image
let shown = null; // what is known of it: image, response and heatmap

function translate() {
  document.documentElement.lang = language;
  document.querySelectorAll("[data-text]").forEach(each => {
    each.textContent = text(each.dataset.text);
  });
  element("language").textContent = text("other");
  element("language").lang = language === "zh" ? "en" : "zh";
  if (stream) element("camera").textContent = text("shoot");
  if (shown) render();
}

// the JSON that the server responds with, or { error }
async function request(path, body) {
  const token = element("token").value, headers = token ? { authorization: "Bearer " + token } : {};
  try {
    const response = await fetch(path, body ? { method: "POST", body, headers } : { headers });
    if (response.status === 401) element("token-details").open = true;
    return await response.json();
  } catch { return { error: text("offline") }; }
}

const withModel = path => path + "?model=" + encodeURIComponent(element("model").value);

async function listModels() {
  const response = await request("v2");
  if (response.error) { element("prediction").textContent = response.error; return; }
  element("prediction").textContent = "";
  element("model").replaceChildren(...response.models.map(name => new Option(name, name)));
  await readModel();
}

// reads whether the model can explain its predictions
async function readModel() {
  const response = await request("v2/models/" + encodeURIComponent(element("model").value));
  element("explain").dataset.available = response.parameters?.explains ? "yes" : "";
  if (shown) render();
}

async function predict(newFile) {
  const own = ++requestCount;
  file = newFile;
  shown = null;
  element("prediction").textContent = text("wait");
  element("explanation").textContent = "";
  element("scores").hidden = element("explain").hidden = true;
  const image = await createImageBitmap(file).catch(() => null);
  const response = await request(withModel("predict"), file);
  if (own !== requestCount) return; // another image was chosen meanwhile
  shown = { image, response, heatmap: null };
  render();
}

async function toggleHeatmap() {
  const own = requestCount;
  if (shown.heatmap) { shown.heatmap = null; render(); return; }
  element("explanation").textContent = text("wait");
  const response = await request(withModel("explain"), file);
  if (own !== requestCount) return;
  if (response.error) { element("explanation").textContent = response.error; return; }
  shown.heatmap = response;
  render();
}

function render() {
  const { image, response, heatmap } = shown;
  element("prediction").textContent = response.error || sentence(response);
  const strongest = heatmap ? text("strongest") + text("parts")[brightestPart(heatmap.map)] : "";
  element("explanation").textContent = strongest;
  element("explain").hidden = Boolean(response.error) || !element("explain").dataset.available;
  element("explain").setAttribute("aria-pressed", String(Boolean(heatmap)));
  element("figure").hidden = !image;
  const shares = image ? draw(image, response, heatmap) : [];
  fillTable(response, shares);
  const label = [element("prediction").textContent, strongest].filter(Boolean).join(". ");
  element("canvas").setAttribute("aria-label", label);
}

const isRegions = prediction =>
  Boolean(prediction) && typeof prediction === "object" && !Array.isArray(prediction);
const isBoxes = prediction => Array.isArray(prediction) && prediction.every(each => each.xyxy);
const regionsOf = response => isRegions(response.prediction) ? response.prediction : null;
const boxesOf = response => isBoxes(response.prediction) ? response.prediction : [];
const classesOf = response => [...new Set(boxesOf(response).map(each => each.name))];

function sentence(response) {
  const { prediction } = response;
  if (typeof prediction === "string") {
    const confidence = response.confidence == null ? "" : " " + percent(response.confidence);
    const doubts = [];
    if (response.abstain) doubts.push(text("uncertain"));
    if (response.ood > OOD_LIMIT) doubts.push(text("unfamiliar"));
    return prediction + confidence + (doubts.length ? ` (${doubts.join(", ")})` : "");
  }
  if (typeof prediction === "number") {
    const short = value => Number(value.toPrecision(4));
    const interval = "low" in response ? ` [${short(response.low)}, ${short(response.high)}]` : "";
    return short(prediction) + interval;
  }
  if (isRegions(prediction)) return Object.keys(prediction).join(", ") || text("none");
  if (!Array.isArray(prediction)) return String(prediction);
  const boxes = boxesOf(response), count = name => boxes.filter(each => each.name === name).length;
  const counts = classesOf(response).map(name => `${name} × ${count(name)}`);
  return (boxes.length ? counts : prediction).join(", ") || text("none");
}

// draws the image and its prediction; returns the share of the image that each region covers
function draw(image, response, heatmap) {
  const canvas = element("canvas"), context = canvas.getContext("2d");
  const side = Math.max(image.width, image.height);
  const scale = Math.min(800, Math.max(320, side)) / side;
  canvas.width = Math.max(1, Math.round(image.width * scale));
  canvas.height = Math.max(1, Math.round(image.height * scale));
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
  if (heatmap) drawHeatmap(context, heatmap.map, heatmap.view, scale);
  const regions = regionsOf(response);
  if (regions) return drawMasks(context, Object.values(regions), [...Object.keys(regions).keys()]);
  const boxes = boxesOf(response), classes = classesOf(response);
  const indices = boxes.map(each => classes.indexOf(each.name));
  const masked = boxes.filter(each => each.mask);
  drawMasks(context, masked.map(each => each.mask), masked.map(each => classes.indexOf(each.name)));
  drawBoxes(context, boxes, indices, scale);
  return [];
}

// rows of the table: [name, share or probability, color of the class in the drawing]
function tableRows(response, shares) {
  const regions = regionsOf(response), boxes = boxesOf(response), classes = classesOf(response);
  if (regions) {
    return Object.keys(regions).map((name, index) => [name, shares[index] || 0, classColor(index)]);
  }
  if (boxes.length) {
    return boxes.map(({ name, score }) => [name, score, classColor(classes.indexOf(name))]);
  }
  return Object.entries(response.scores || {}).sort((a, b) => b[1] - a[1]).slice(0, MAX_ROWS);
}

function tableRow([name, value, color]) {
  const row = document.createElement("tr"), cell = document.createElement("td");
  if (color) {
    const mark = document.createElement("span");
    mark.className = "mark";
    mark.style.background = css(color);
    cell.append(mark);
  }
  cell.append(name);
  const number = document.createElement("td");
  number.textContent = value == null ? "" : percent(value, 1);
  number.className = "n";
  row.append(cell, number);
  return row;
}

function fillTable(response, shares) {
  const rows = tableRows(response, shares);
  element("column").textContent = text(regionsOf(response) ? "share" : "probability");
  element("scores").hidden = !rows.length;
  element("scores").tBodies[0].replaceChildren(...rows.map(tableRow));
}

async function useCamera() {
  const video = element("video");
  if (!stream) {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } })
      .catch(error => { element("prediction").textContent = error.message; return null; });
    if (!stream) return;
    video.srcObject = stream;
    video.hidden = false;
    await video.play();
    element("camera").textContent = text("shoot");
    return;
  }
  const canvas = document.createElement("canvas");
  canvas.width = video.videoWidth;
  canvas.height = video.videoHeight;
  canvas.getContext("2d").drawImage(video, 0, 0);
  stream.getTracks().forEach(track => track.stop());
  stream = null;
  video.hidden = true;
  element("camera").textContent = text("camera");
  canvas.toBlob(predict, "image/jpeg", 0.92);
}

const dropZone = element("drop-zone");
dropZone.addEventListener("keydown", event => {
  if (event.key !== "Enter" && event.key !== " ") return;
  event.preventDefault();
  element("file").click();
});
dropZone.addEventListener("dragover", event => {
  event.preventDefault();
  dropZone.classList.add("over");
});
dropZone.addEventListener("dragleave", () => dropZone.classList.remove("over"));
dropZone.addEventListener("drop", event => {
  event.preventDefault();
  dropZone.classList.remove("over");
  if (event.dataTransfer.files[0]) predict(event.dataTransfer.files[0]);
});
document.addEventListener("paste", event => {
  if (event.clipboardData.files[0]) predict(event.clipboardData.files[0]);
});
element("file").addEventListener("change", () => {
  if (element("file").files[0]) predict(element("file").files[0]);
  element("file").value = "";
});
element("camera").addEventListener("click", useCamera);
element("explain").addEventListener("click", toggleHeatmap);
element("model").addEventListener("change", () => {
  readModel();
  if (file) predict(file);
});
element("language").addEventListener("click", () => {
  language = language === "en" ? "zh" : "en";
  translate();
});
element("token").addEventListener("change", listModels);
translate();
listModels();
