// A melody through the browser's microphone. The browser decodes its own recording; the kernel gets a WAV file.

const RATE = 16000, MOST = 30;  // Hz, s
const SECURE = "no microphone here: a page may use it on the machine itself (localhost) or by https only";

function wav(samples) {  // 16 bits, one channel
  const view = new DataView(new ArrayBuffer(44 + 2 * samples.length));
  const text = (at, letters) => [...letters].forEach((letter, i) => view.setUint8(at + i, letter.charCodeAt(0)));
  text(0, "RIFF");
  view.setUint32(4, 36 + 2 * samples.length, true);
  text(8, "WAVEfmt ");
  [[16, 16], [24, RATE], [28, 2 * RATE], [40, 2 * samples.length]].forEach(([at, value]) => view.setUint32(at, value, true));
  [[20, 1], [22, 1], [32, 2], [34, 16]].forEach(([at, value]) => view.setUint16(at, value, true));
  text(36, "data");
  samples.forEach((x, i) => view.setInt16(44 + 2 * i, Math.max(-1, Math.min(1, x)) * 32767, true));
  return view.buffer;
}

async function decoded(blob) {
  const sound = await new OfflineAudioContext(1, 1, RATE).decodeAudioData(await blob.arrayBuffer());
  const mono = new Float32Array(sound.length);
  for (let c = 0; c < sound.numberOfChannels; c++) sound.getChannelData(c).forEach((x, i) => { mono[i] += x / sound.numberOfChannels; });
  return mono;
}

async function render({ model, el }) {
  const state = await model.widget_manager.get_model(model.get("state"));
  const button = document.createElement("button"), words = document.createElement("span");
  words.setAttribute("role", "status");
  el.append(button, words);
  let recorder = null, clock = null;
  const idle = (text = "") => {
    clearInterval(clock);
    recorder = null;
    button.disabled = false;
    button.textContent = "Hum it";
    button.title = `record a melody with the microphone, at most ${MOST} s`;
    words.textContent = text;
  };
  const record = async () => {
    if (!navigator.mediaDevices || !window.MediaRecorder) return idle(SECURE);
    button.disabled = true;  // while the browser asks
    let stream;
    try {
      stream = await navigator.mediaDevices.getUserMedia({ audio: { echoCancellation: false, noiseSuppression: false } });
    } catch (error) {
      return idle(error.name === "NotAllowedError" ? "the browser may not use the microphone" : "no microphone was found");
    }
    const parts = [], begun = performance.now();
    const own = recorder = new MediaRecorder(stream);
    own.addEventListener("dataavailable", ({ data }) => parts.push(data));
    own.addEventListener("stop", async () => {
      stream.getTracks().forEach((track) => track.stop());
      idle();
      try {
        state.send({}, undefined, [wav(await decoded(new Blob(parts)))]);
      } catch {
        idle("nothing was recorded; try again");
      }
    });
    own.start();
    button.disabled = false;
    const tick = () => {
      const seconds = (performance.now() - begun) / 1000;
      button.textContent = `Stop (${seconds.toFixed(0)} s)`;
      if (seconds > MOST && own.state === "recording") own.stop();
    };
    tick();
    clock = setInterval(tick, 500);
  };
  button.addEventListener("click", () => recorder ? recorder.state === "recording" && recorder.stop() : record());
  idle();
  return () => {
    clearInterval(clock);
    if (recorder && recorder.state === "recording") recorder.stop();
  };
}
export default { render };
