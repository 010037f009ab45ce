"use strict";
const words = {
  en: { drop: "Drop a picture here, paste it, or press Enter to choose one", model: "Model", camera: "Use the camera", shoot: "Take the picture",
        class: "Class", chance: "Chance", token: "Token", wait: "Looking …", unsure: "not sure", strange: "unlike what it has learnt from", none: "nothing found", other: "中文" },
  zh: { drop: "把图片拖到这里、粘贴，或按回车选择", model: "模型", camera: "使用相机", shoot: "拍照",
        class: "类别", chance: "概率", token: "令牌", wait: "正在识别……", unsure: "没有把握", strange: "与学过的图片不同", none: "没有发现", other: "English" },
};
const at = id => document.getElementById(id);
let language = navigator.language.startsWith("zh") ? "zh" : "en", stream = null, last = null;
const say = word => words[language][word];

function speak() {
  document.documentElement.lang = language;
  document.querySelectorAll("[data-say]").forEach(each => { each.textContent = say(each.dataset.say); });
  at("language").textContent = say("other");
  at("language").lang = language === "zh" ? "en" : "zh";
  if (stream) at("camera").textContent = say("shoot");
  if (last) tell(last);
}

const headers = () => at("token").value ? { authorization: "Bearer " + at("token").value } : {};

async function models() {
  const answer = await fetch("v2", { headers: headers() });
  if (!answer.ok) { at("token-part").open = true; return; }
  at("model").replaceChildren(...(await answer.json()).models.map(name => new Option(name, name)));
}

async function ask(picture) {
  at("said").textContent = say("wait");
  at("scores").hidden = true;
  const image = await createImageBitmap(picture).catch(() => null);
  const answer = await fetch("predict?model=" + encodeURIComponent(at("model").value), { method: "POST", body: picture, headers: headers() });
  const told = await answer.json();
  last = answer.ok ? told : null;
  draw(image, answer.ok ? told : {});
  if (answer.ok) tell(told); else at("said").textContent = told.error;
}

function tell(told) {
  if (typeof told.answer === "string" && told.scores) {
    const doubts = [told.abstain ? say("unsure") : "", told.ood > 0.99 ? say("strange") : ""].filter(Boolean);
    at("said").textContent = `${told.answer} ${Math.round(100 * told.confidence)} %` + (doubts.length ? ` (${doubts.join(", ")})` : "");
  } else if (Array.isArray(told.answer)) {
    const names = told.answer.map(each => typeof each === "string" ? each : each.name + (each.score ? ` ${Math.round(100 * each.score)} %` : ""));
    at("said").textContent = names.join(", ") || say("none");
  } else at("said").textContent = typeof told.answer === "object" ? Object.keys(told.answer).join(", ") : String(told.answer);
  const rows = Object.entries(told.scores || {}).sort((a, b) => b[1] - a[1]).slice(0, 8).map(([name, score]) => {
    const row = document.createElement("tr"), cells = [document.createElement("td"), document.createElement("td")];
    cells[0].textContent = name;
    cells[1].textContent = (100 * score).toFixed(1) + " %";
    cells[1].className = "n";
    row.append(...cells);
    return row;
  });
  at("scores").hidden = !rows.length;
  at("scores").tBodies[0].replaceChildren(...rows);
  at("canvas").setAttribute("aria-label", at("said").textContent);
}

function draw(image, told) {
  at("shown").hidden = !image;
  if (!image) return;
  const canvas = at("canvas"), pen = canvas.getContext("2d"), scale = Math.min(1, 800 / Math.max(image.width, image.height));
  canvas.width = image.width * scale;
  canvas.height = image.height * scale;
  pen.drawImage(image, 0, 0, canvas.width, canvas.height);
  for (const box of Array.isArray(told.answer) ? told.answer : []) {
    if (!box.xyxy) continue;
    const [x0, y0, x1, y1] = box.xyxy.map(each => each * scale);
    pen.lineWidth = 3;
    pen.strokeStyle = "#d1603d";
    pen.strokeRect(x0, y0, x1 - x0, y1 - y0);
    pen.font = "14px sans-serif";
    pen.fillStyle = "#d1603d";
    pen.fillText(box.name, x0 + 3, Math.max(14, y0 - 5));
  }
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
at("file").addEventListener("change", () => { if (at("file").files[0]) ask(at("file").files[0]); });
at("camera").addEventListener("click", shoot);
at("language").addEventListener("click", () => { language = language === "en" ? "zh" : "en"; speak(); });
at("token").addEventListener("change", models);
speak();
models();
