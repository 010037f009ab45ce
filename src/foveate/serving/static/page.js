"use strict";
const words = {
  en: { drop: "Drop a picture here, paste it, or press Enter to choose one", model: "Model", camera: "Use the camera", shoot: "Take the picture",
        class: "Class", chance: "Chance", share: "Share of the picture", token: "Token", wait: "Looking …", unsure: "not sure", strange: "unlike what it has learnt from",
        none: "nothing found", lost: "the server does not answer", why: "Where it looked", looked: "It looked most at the ", other: "中文",
        parts: ["top left", "top", "top right", "left", "centre", "right", "bottom left", "bottom", "bottom right"] },
  zh: { drop: "把图片拖到这里、粘贴，或按回车选择", model: "模型", camera: "使用相机", shoot: "拍照",
        class: "类别", chance: "概率", share: "占画面", token: "令牌", wait: "正在识别……", unsure: "没有把握", strange: "与学过的图片不同",
        none: "没有发现", lost: "服务器没有回应", why: "看了哪里", looked: "它主要看的是", other: "English",
        parts: ["左上", "上方", "右上", "左侧", "中央", "右侧", "左下", "下方", "右下"] },
};
const at = id => document.getElementById(id);
const say = word => words[language][word];
const percent = (share, digits = 0) => (100 * share).toFixed(digits) + " %";
let language = navigator.language.startsWith("zh") ? "zh" : "en", stream = null, turn = 0;
let picture = null, last = null; // the file; and what is known of it: image, told, and the map of where the network looked

function speak() {
  document.documentElement.lang = language;
  document.querySelectorAll("[data-say]").forEach(each => { each.textContent = say(each.dataset.say); });
  at("language").textContent = say("other");
  at("language").lang = language === "zh" ? "en" : "zh";
  if (stream) at("camera").textContent = say("shoot");
  if (last) show();
}

// what the server says, or { error }
async function asked(address, body) {
  const headers = at("token").value ? { authorization: "Bearer " + at("token").value } : {};
  try {
    const answer = await fetch(address, body ? { method: "POST", body, headers } : { headers });
    if (answer.status === 401) at("token-part").open = true;
    return await answer.json();
  } catch { return { error: say("lost") }; }
}

const about = address => address + "?model=" + encodeURIComponent(at("model").value);

async function models() {
  const told = await asked("v2");
  if (told.error) { at("said").textContent = told.error; return; }
  at("said").textContent = "";
  at("model").replaceChildren(...told.models.map(name => new Option(name, name)));
  await know();
}

// whether the model can say where it looked
async function know() {
  const told = await asked("v2/models/" + encodeURIComponent(at("model").value));
  at("why").dataset.can = told.parameters?.explains ? "yes" : "";
  if (last) show();
}

async function ask(file) {
  const mine = ++turn;
  picture = file;
  last = null;
  at("said").textContent = say("wait");
  at("looked").textContent = "";
  at("scores").hidden = at("why").hidden = true;
  const image = await createImageBitmap(picture).catch(() => null), told = await asked(about("predict"), picture);
  if (mine !== turn) return; // another picture has come meanwhile
  last = { image, told, map: null };
  show();
}

async function why() {
  const mine = turn, pressed = at("why").getAttribute("aria-pressed") === "true";
  if (pressed) { last.map = null; show(); return; }
  at("looked").textContent = say("wait");
  const told = await asked(about("explain"), picture);
  if (mine !== turn) return;
  if (told.error) { at("looked").textContent = told.error; return; }
  last.map = told;
  show();
}

function show() {
  const { image, told, map } = last;
  at("said").textContent = told.error || sentence(told);
  at("looked").textContent = map ? say("looked") + say("parts")[brightest(map.map)] : "";
  at("why").hidden = Boolean(told.error) || !at("why").dataset.can;
  at("why").setAttribute("aria-pressed", String(Boolean(map)));
  at("shown").hidden = !image;
  const shares = image ? paint(image, told, map) : [];
  tabulate(told, shares);
  at("canvas").setAttribute("aria-label", [at("said").textContent, at("looked").textContent].filter(Boolean).join(". "));
}

const regions = told => told.answer && typeof told.answer === "object" && !Array.isArray(told.answer) ? told.answer : null;
const objects = told => Array.isArray(told.answer) && told.answer.every(each => each.xyxy) ? told.answer : [];
const kinds = told => [...new Set(objects(told).map(each => each.name))];

function sentence(told) {
  if (typeof told.answer === "string") {
    const doubts = [told.abstain ? say("unsure") : "", told.ood > 0.99 ? say("strange") : ""].filter(Boolean);
    return told.answer + (told.confidence == null ? "" : " " + percent(told.confidence)) + (doubts.length ? ` (${doubts.join(", ")})` : "");
  }
  if (regions(told)) return Object.keys(told.answer).join(", ") || say("none");
  if (!Array.isArray(told.answer)) return String(told.answer);
  const names = objects(told).length ? kinds(told).map(name => `${name} × ${objects(told).filter(each => each.name === name).length}`) : told.answer;
  return names.join(", ") || say("none");
}

// gives the share of the picture that each region takes
function paint(image, told, map) {
  const canvas = at("canvas"), pen = canvas.getContext("2d");
  const side = Math.max(image.width, image.height), scale = Math.min(800, Math.max(320, side)) / side;
  canvas.width = Math.max(1, Math.round(image.width * scale));
  canvas.height = Math.max(1, Math.round(image.height * scale));
  pen.drawImage(image, 0, 0, canvas.width, canvas.height);
  if (map) paintHeat(pen, map.map, map.view, scale);
  if (regions(told)) return paintMasks(pen, Object.values(told.answer), Object.keys(told.answer).map((_, place) => place));
  const places = objects(told).map(each => kinds(told).indexOf(each.name)), masked = objects(told).map((each, place) => [each.mask, places[place]]).filter(each => each[0]);
  paintMasks(pen, masked.map(each => each[0]), masked.map(each => each[1]));
  paintBoxes(pen, objects(told), places, scale);
  return [];
}

function tabulate(told, shares) {
  let rows = Object.entries(told.scores || {}).sort((a, b) => b[1] - a[1]).slice(0, 8);
  if (regions(told)) rows = Object.keys(told.answer).map((name, place) => [name, shares[place] || 0, colour(place)]);
  if (objects(told).length) rows = objects(told).map(each => [each.name, each.score, colour(kinds(told).indexOf(each.name))]);
  at("column").textContent = say(regions(told) ? "share" : "chance");
  at("scores").hidden = !rows.length;
  at("scores").tBodies[0].replaceChildren(...rows.map(([name, share, own]) => {
    const row = document.createElement("tr"), cells = [document.createElement("td"), document.createElement("td")];
    if (own) {
      const mark = document.createElement("span");
      mark.className = "mark";
      mark.style.background = css(own);
      cells[0].append(mark);
    }
    cells[0].append(name);
    cells[1].textContent = share == null ? "" : percent(share, 1);
    cells[1].className = "n";
    row.append(...cells);
    return row;
  }));
}

async function shoot() {
  const video = at("video");
  if (!stream) {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } }).catch(error => { at("said").textContent = error.message; return null; });
    if (!stream) return;
    video.srcObject = stream;
    video.hidden = false;
    await video.play();
    at("camera").textContent = say("shoot");
    return;
  }
  const canvas = document.createElement("canvas");
  canvas.width = video.videoWidth;
  canvas.height = video.videoHeight;
  canvas.getContext("2d").drawImage(video, 0, 0);
  stream.getTracks().forEach(track => track.stop());
  stream = null;
  video.hidden = true;
  at("camera").textContent = say("camera");
  canvas.toBlob(ask, "image/jpeg", 0.92);
}

const place = at("place");
place.addEventListener("keydown", event => { if (event.key === "Enter" || event.key === " ") { event.preventDefault(); at("file").click(); } });
place.addEventListener("dragover", event => { event.preventDefault(); place.classList.add("over"); });
place.addEventListener("dragleave", () => place.classList.remove("over"));
place.addEventListener("drop", event => { event.preventDefault(); place.classList.remove("over"); if (event.dataTransfer.files[0]) ask(event.dataTransfer.files[0]); });
document.addEventListener("paste", event => { if (event.clipboardData.files[0]) ask(event.clipboardData.files[0]); });
at("file").addEventListener("change", () => { if (at("file").files[0]) ask(at("file").files[0]); at("file").value = ""; });
at("camera").addEventListener("click", shoot);
at("why").addEventListener("click", why);
at("model").addEventListener("change", () => { know(); if (picture) ask(picture); });
at("language").addEventListener("click", () => { language = language === "en" ? "zh" : "en"; speak(); });
at("token").addEventListener("change", models);
speak();
models();
