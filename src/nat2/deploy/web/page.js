"use strict";
/* The page: what is dropped, chosen, pasted or seen by the camera goes through the network, on this device. */

const $ = id => document.getElementById(id);
const SHOWN = 5, KEPT = 12, CAMERA_PAUSE = 150; // classes of a picture, earlier pictures, milliseconds between frames
const { classes, channels, side, crop, check, deep } = NETWORK;

function bytes(text) {
  return Uint8Array.from(atob(text), character => character.charCodeAt(0));
}

async function unpacked(content) {
  const stream = new Blob([content]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

async function start() {
  // Neither fetch() nor import() may read files beside a page that was opened from a disk, so both arrive as text.
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmPaths = { mjs: URL.createObjectURL(new Blob([RUNTIME.module], { type: "text/javascript" })) };
  ort.env.wasm.wasmBinary = (await unpacked(bytes(RUNTIME.wasm))).buffer;
  const session = await ort.InferenceSession.create(bytes(NETWORK.model), { executionProviders: ["wasm"] });
  const logits = await answer(session, checkImage());
  const worst = Math.max(...check.logits.map((value, n) => Math.abs(value - logits[n])));
  return { session, worst, agrees: worst <= check.tolerance };
}

/** The image whose answer is known; the same is computed when the page is written. */
function checkImage() {
  return Float32Array.from({ length: channels * crop.size ** 2 }, (_, n) => ((n * 7919) % 256) / 255);
}

async function answer(session, images) {
  const input = new ort.Tensor("float32", images, [1, channels, crop.size, crop.size]);
  return (await session.run({ images: input })).logits.data;
}

function softmax(logits) {
  const most = Math.max(...logits), powers = Array.from(logits, value => Math.exp(value - most));
  const total = powers.reduce((sum, each) => sum + each, 0);
  return powers.map(each => each / total);
}

/** All classes and their probabilities, most probable first, of anything that can be drawn. */
async function classifyDrawn(picture, width, height) {
  const { session } = await ready;
  const pixels = fitted(picture, width, height, side, channels);
  const shares = softmax(await answer(session, resized(pixels, side, channels, crop)));
  return shares.map((probability, n) => ({ class: classes[n], probability }))
    .sort((one, other) => other.probability - one.probability);
}

async function decoded(file) {
  const head = new Uint8Array(await file.slice(0, 25).arrayBuffer());
  const png = head.length === 25 && String.fromCharCode(...head.slice(1, 4)) === "PNG";
  if (deep && png && head[24] === 16) {
    throw new Error("this network was trained on pictures of more than 8 bits, and browsers reduce them to 8; use nat2 predict");
  }
  try {
    return await createImageBitmap(file, { colorSpaceConversion: "none" });
  } catch {
    throw new Error("it is no picture, or of a kind that this browser cannot read");
  }
}

/** The same of an image file. */
async function classify(file) {
  const picture = await decoded(file);
  try {
    return await classifyDrawn(picture, picture.width, picture.height);
  } finally {
    picture.close();
  }
}

/* -- what is shown */

function percent(share) {
  return `${(100 * share).toFixed(1)} %`;
}

function showAnswers(answers, milliseconds) {
  $("answers").replaceChildren(...answers.slice(0, SHOWN).map(({ class: name, probability }, place) => {
    const row = document.createElement("li"), label = document.createElement("span");
    const share = document.createElement("span"), bar = document.createElement("i");
    label.textContent = name;
    share.textContent = percent(probability);
    share.className = "share";
    bar.style.setProperty("--share", probability);
    if (place === 0) row.className = "best";
    row.append(label, share, bar);
    return row;
  }));
  $("time").textContent = `${milliseconds < 10 ? milliseconds.toFixed(1) : milliseconds.toFixed(0)} ms on this device`;
}

function complain(text) {
  $("problem").textContent = text;
  $("problem").hidden = !text;
}

function keepEarlier() {
  const best = $("answers").querySelector(".best");
  if (!best || $("picture").hidden) return;
  const entry = document.createElement("li"), image = document.createElement("img"), text = document.createElement("span");
  image.src = $("picture").src;
  image.alt = "";
  text.textContent = [...best.querySelectorAll("span")].map(each => each.textContent).join(", ");
  entry.append(image, text);
  $("earlier").prepend(entry);
  while ($("earlier").children.length > KEPT) {
    URL.revokeObjectURL($("earlier").lastChild.querySelector("img").src);
    $("earlier").lastChild.remove();
  }
  $("earlier").hidden = false;
}

async function showFile(file) {
  stopCamera();
  complain("");
  try {
    await ready;
    const began = performance.now(), answers = await classify(file), taken = performance.now() - began;
    keepEarlier();
    $("picture").src = URL.createObjectURL(file);
    $("picture").alt = file.name || "the picture";
    $("picture").hidden = false;
    $("stage").classList.add("filled");
    showAnswers(answers, taken);
  } catch (error) {
    complain(`${file.name || "The picture"} was not classified: ${error.message}.`);
  }
}

async function showFiles(files) {
  for (const file of files) await showFile(file);
}

/* -- the camera */

let stream = null;

async function startCamera() {
  complain("");
  try {
    stream = await navigator.mediaDevices.getUserMedia({ video: { facingMode: "environment" } });
  } catch (error) {
    complain(`The camera cannot be used (${error.message}).`);
    return;
  }
  keepEarlier();
  $("picture").hidden = true;
  $("video").srcObject = stream;
  $("video").hidden = false;
  $("stage").classList.add("filled");
  $("camera").textContent = "Take the picture";
  await $("video").play();
  while (stream) {
    const video = $("video"), began = performance.now();
    const answers = await classifyDrawn(video, video.videoWidth, video.videoHeight);
    if (stream) showAnswers(answers, performance.now() - began);
    await new Promise(done => setTimeout(done, CAMERA_PAUSE));
  }
}

function stopCamera() {
  if (!stream) return;
  stream.getTracks().forEach(track => track.stop());
  stream = null;
  $("video").hidden = true;
  $("camera").textContent = "Use the camera";
}

async function takePicture() {
  const video = $("video"), canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
  canvas.getContext("2d").drawImage(video, 0, 0);
  const file = await new Promise(done => canvas.toBlob(done, "image/png"));
  if (file) await showFile(new File([file], "photo.png", { type: "image/png" }));
}

function onCamera() {
  if (stream) return takePicture();
  // Without HTTPS, browsers hand the camera over as an application that takes one picture, or not at all.
  return navigator.mediaDevices ? startCamera() : $("photo").click();
}

/* -- what happens to the page */

const ready = start();

ready.then(({ worst, agrees }) => {
  document.body.classList.add("ready");
  $("state").textContent = agrees
    ? `Checked: on this device the network answers as it was trained (largest difference ${worst.toExponential(0)}).`
    : `On this device the network answers differently from how it was trained (by ${worst.toExponential(0)}); do not rely on it.`;
  $("state").classList.toggle("wrong", !agrees);
}, error => complain(`This browser cannot run the network (${error.message}); a newer one can.`));

for (const id of ["file", "photo"]) {
  $(id).addEventListener("change", event => {
    showFiles([...event.target.files]);
    event.target.value = "";
  });
}
$("choose").addEventListener("click", () => $("file").click());
$("camera").addEventListener("click", onCamera);
addEventListener("paste", event => showFiles([...event.clipboardData.files]));
addEventListener("dragover", event => { event.preventDefault(); $("stage").classList.add("over"); });
addEventListener("dragleave", event => { if (!event.relatedTarget) $("stage").classList.remove("over"); });
addEventListener("drop", event => {
  event.preventDefault();
  $("stage").classList.remove("over");
  showFiles([...event.dataTransfer.files]);
});

self.nat2 = { ready, classify };
