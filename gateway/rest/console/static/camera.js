// Frames of a camera over a WebSocket: the newest goes out as soon as there is room, and answers come for what was sent.

import { openStream } from "./api.js";
import { make } from "./dom.js";

const LONGEST_SIDE = 1280; // pixels; models see fewer
const FRAMES_PER_SECOND = 15;
const MOST_UNANSWERED = 3; // one on its way, one in work, one that waits there: more would only be replaced
const JPEG_QUALITY = 0.85;
const RECONNECT_SECONDS = [0.5, 1, 2, 4, 8];
const GOODBYES = { 1008: "The key is no longer known.", 1009: "A frame was larger than the gateway allows." };

/** Why there is no camera, in words. */
function refusal(error) {
  if (!navigator.mediaDevices) {
    return "The browser gives cameras only to pages over HTTPS or from this machine (localhost).";
  }
  const reasons = {
    NotAllowedError: "The browser was told not to give the camera to this page.",
    NotFoundError: "There is no camera.",
    NotReadableError: "Another program uses the camera.",
  };
  return reasons[error.name] ?? `The camera does not start: ${error.message}`;
}

export class Camera {
  /** `onFrame({picture, answer})` for every answer, `onState(text, isError)`; `onEnd()` when it has stopped for good. */
  constructor({ onFrame, onState, onEnd }) {
    Object.assign(this, { onFrame, onState, onEnd });
    this.isOn = false;
  }

  async start(parameters) {
    this.parameters = parameters;
    try {
      const video = { width: { ideal: LONGEST_SIDE }, height: { ideal: 720 } };
      this.media = await navigator.mediaDevices.getUserMedia({ video, audio: false });
    } catch (error) {
      throw new Error(refusal(error), { cause: error });
    }
    this.video = make("video", { muted: true, playsInline: true, srcObject: this.media });
    await this.video.play();
    this.isOn = true;
    this.attempts = 0;
    this.media.getVideoTracks()[0].addEventListener("ended", () => this.stop("The camera was taken away."));
    this.connect();
  }

  connect() {
    this.sent = new Map(); // number -> {picture, at}
    this.number = 0;
    this.statistics = { answered: 0, dropped: 0, since: performance.now() };
    this.socket = openStream(this.parameters);
    this.socket.addEventListener("open", () => this.tick());
    this.socket.addEventListener("message", (event) => this.receive(JSON.parse(event.data)));
    this.socket.addEventListener("close", (event) => this.closed(event));
  }

  /** Send a frame if there is room, and come back in the camera's time. */
  async tick() {
    const { socket } = this;
    if (!this.isOn || socket.readyState !== WebSocket.OPEN) return;
    const began = performance.now();
    if (this.sent.size < MOST_UNANSWERED && !socket.bufferedAmount) {
      const picture = this.grab();
      const blob = await new Promise((resolve) => picture.toBlob(resolve, "image/jpeg", JPEG_QUALITY));
      if (blob && socket.readyState === WebSocket.OPEN) {
        this.sent.set(this.number++, { picture, at: performance.now() });
        socket.send(blob);
      }
    }
    this.timer = setTimeout(() => this.tick(), Math.max(0, 1000 / FRAMES_PER_SECOND - (performance.now() - began)));
  }

  grab() {
    const { videoWidth, videoHeight } = this.video;
    const share = Math.min(1, LONGEST_SIDE / Math.max(videoWidth, videoHeight));
    const picture = make("canvas", { width: Math.round(videoWidth * share), height: Math.round(videoHeight * share) });
    picture.getContext("2d").drawImage(this.video, 0, 0, picture.width, picture.height);
    return picture;
  }

  receive(answer) {
    const { picture, at } = this.sent.get(answer.frame);
    for (const number of this.sent.keys()) if (number <= answer.frame) this.sent.delete(number);
    this.attempts = 0;
    if (answer.error) {
      this.onState(answer.error.detail, true);
      return;
    }
    const now = performance.now();
    const { statistics } = this;
    statistics.answered += 1;
    statistics.dropped += answer.dropped;
    const perSecond = (statistics.answered / (now - statistics.since)) * 1000;
    this.onState(
      `${perSecond.toFixed(1)} pictures/s, ${(now - at).toFixed(0)} ms from camera to boxes, ${statistics.dropped} replaced by newer ones`,
      false,
    );
    this.onFrame({ picture, answer });
  }

  closed(event) {
    clearTimeout(this.timer);
    if (!this.isOn) return;
    if (event.code in GOODBYES) {
      this.stop(GOODBYES[event.code]);
    } else if (this.attempts < RECONNECT_SECONDS.length) {
      this.onState("The connection is gone; trying again.", true);
      this.timer = setTimeout(() => this.isOn && this.connect(), 1000 * RECONNECT_SECONDS[this.attempts++]);
    } else {
      this.stop("The gateway takes no frames. Is it running, and does this key allow the model?");
    }
  }

  stop(reason = "") {
    if (!this.isOn) return;
    this.isOn = false;
    clearTimeout(this.timer);
    for (const track of this.media.getTracks()) track.stop();
    this.socket.close(1000);
    this.onEnd(reason);
  }
}
