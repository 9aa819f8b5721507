// Numbers, times and codecs as text.

const number = (digits) => new Intl.NumberFormat("en", { maximumFractionDigits: digits, minimumFractionDigits: digits });
const whole = number(0), tenth = number(1), hundredth = number(2);

export const count = (n) => whole.format(n);

export function bitrate(bits) {
  if (bits >= 1e9) return `${hundredth.format(bits / 1e9)} Gbit/s`;
  if (bits >= 1e6) return `${hundredth.format(bits / 1e6)} Mbit/s`;
  return `${whole.format(bits / 1e3)} kbit/s`;
}

export function milliseconds(ms) {
  return ms < 1000 ? `${ms < 10 && ms % 1 ? tenth.format(ms) : whole.format(ms)} ms` : `${tenth.format(ms / 1000)} s`;
}

// span is a duration in seconds, as exact as one wants to know it.
export function span(seconds) {
  const s = Math.max(0, Math.floor(seconds));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor(s / 60) % 60} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor(s / 3600) % 24} h`;
}

export const clock = (time) => new Date(time).toLocaleTimeString(undefined, { hour12: false });

const codecs = {
  avc1: "H.264", hvc1: "HEVC", hev1: "HEVC", av01: "AV1", vp09: "VP9", vp08: "VP8", vvc1: "VVC",
  mp4a: "AAC", Opus: "Opus", opus: "Opus", ".mp3": "MP3", fLaC: "FLAC", "ac-3": "AC-3", "ec-3": "E-AC-3",
};
export const codec = (fourCC) => codecs[fourCC] || fourCC;

export function video(s) {
  if (!s.video_codec) return "none";
  const size = s.width ? ` ${s.width}×${s.height}` : "";
  return codec(s.video_codec) + (s.profile ? ` ${s.profile}` : "") + size;
}

export function audio(s) {
  if (!s.audio_codec) return "none";
  const rate = s.sample_rate ? ` ${tenth.format(s.sample_rate / 1000).replace(/\.0$/, "")} kHz` : "";
  return codec(s.audio_codec) + rate + (["", " mono", " stereo"][s.channels] ?? ` ${s.channels} channels`);
}

export const rate = (frames) => (frames ? `${tenth.format(frames)} fps` : "–");

// state is a destination's state in words, and how good it is.
export function state(d) {
  switch (d.state) {
    case "publishing": return ["Publishing", "good"];
    case "stalled": return ["Stalled", "bad"];
    case "draining": return ["Ending", "off"];
    case "closed": return ["Ended", "off"];
    case "waiting":
      if (!d.cause) return ["Waiting", "busy"];
      return d.next_attempt ? ["Lost", "bad"] : ["Given up", "bad"];
    default: return d.cause ? ["Reconnecting", "bad"] : ["Connecting", "busy"];
  }
}

const sentence = (text) => text && text[0].toUpperCase() + text.slice(1).replace(/\.?$/, ".");

// why says why a destination does not work, and when it is tried again.
export function why(d, now) {
  if (d.state === "publishing" || d.state === "draining") return sentence(d.warning || "");
  if (d.state === "stalled") return "It takes nothing. " + sentence(d.warning || "");
  let text = sentence(d.cause || "");
  if (d.next_attempt) {
    const wait = (Date.parse(d.next_attempt) - now) / 1000;
    text += wait >= 1 ? ` Next attempt in ${span(wait)}.` : " Next attempt now.";
  } else if (d.state === "waiting" && d.cause) {
    text += " It is not tried again.";
  }
  if (d.connects > 1) text += ` ${count(d.connects)} attempts so far.`;
  return text;
}

const reasons = {
  unpublish: "its publisher ended it", lost: "its publisher was lost", timeout: "its publisher sent nothing",
  kicked: "an operator ended it", shutdown: "the server ended",
};

// event is an event in words.
export function event(e) {
  const cause = e.cause ? `: ${e.cause.replace(`destination ${e.destination}: `, "")}` : "";
  const after = e.after ? ` after ${span(e.after / 1e9)}` : "";
  switch (e.kind) {
    case "publish": return `was published from ${e.addr}`;
    case "live": return `is live with ${[e.video_codec, e.audio_codec].filter(Boolean).map(codec).join(" and ") || "data"}`;
    case "codec": return `has new sequence headers, for ${[e.video_codec, e.audio_codec].filter(Boolean).map(codec).join(" and ")}`;
    case "publisher_lost": return `waits for another publisher: ${reasons[e.reason] || e.reason}`;
    case "publisher": return `has another publisher, from ${e.addr}`;
    case "unpublish": return `ended${after}: ${reasons[e.reason] || e.reason}`;
    case "destination": return `${e.destination} is ${e.state}${cause}`;
    case "first_keyframe": return `${e.destination} was sent its first video after ${milliseconds((e.after || 0) / 1e6)}`;
    case "dropped": return `${e.destination} missed ${count(e.count)} messages`;
    case "retry": return `${e.destination} ${e.retry ? `is tried again at ${clock(e.retry)}` : "is not tried again"}${cause}`;
    case "play": return `has a player at ${e.addr}`;
    case "stop": return `lost a player at ${e.addr}`;
    case "resolver_failing": return `got no answer about its destinations${cause}`;
    case "resolver_well": return "got an answer about its destinations again";
    case "missed": return `${count(e.count)} events were missed`;
    default: return e.kind;
  }
}
