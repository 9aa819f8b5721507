package forwardtest

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"iter"
	"time"

	"github.com/rtmp-forward/forward/internal/amf"
	"github.com/rtmp-forward/forward/internal/flv"
)

// Media generates a stream in the form of H.264 and AAC, with real sequence headers.
// Its frames carry their number, their timestamp and a hash, by which a Recorder
// identifies them. The same Media generates the same messages. Zero fields have the
// defaults given with them.
type Media struct {
	// ID is part of each frame. A Recorder treats another ID as another publish, which
	// starts again and does not return to an earlier one.
	ID uint32
	// FPS is the video's frames per second, KeyframeInterval the time from
	// one keyframe to the next. Defaults 25 and 2 s.
	FPS              int
	KeyframeInterval time.Duration
	// VideoBitrate and AudioBitrate are in bits per second, without framing; a frame
	// has at least 64 bytes. Negative: no such track. Defaults 500000 and 64000.
	VideoBitrate, AudioBitrate int
	// Start is the first timestamp, in milliseconds.
	Start uint32
}

const (
	aacRate    = 48000 // samples per second
	aacSamples = 1024  // in a frame
	// keyframeWeight is how much larger a keyframe is than another frame.
	keyframeWeight = 5
)

// The sequence headers: AVCDecoderConfigurationRecord of High profile, 320 by
// 180 (ISO/IEC 14496-15, 5.3.3.1), and AudioSpecificConfig of AAC-LC, 48 kHz,
// mono (ISO/IEC 14496-3, 1.6.2.1).
const (
	avcHeader = "17000000000164000dffe1001a6764000dacd941419f9f011000000300100000030320f142996001000468efbcb0fdf8f800"
	aacHeader = "af001188"
)

// Messages returns the stream's first messages: metadata inside @setDataFrame,
// the sequence headers, and the frames before the time d, in the order of their
// timestamps. A negative d is no end.
func (m Media) Messages(d time.Duration) iter.Seq[Message] {
	m = m.withDefaults()
	return func(yield func(Message) bool) {
		for _, h := range m.headers() {
			if !yield(h) {
				return
			}
		}
		var number, video, audio uint64
		for {
			at, track := m.videoTime(video), &video
			typ := uint8(TypeVideo)
			if t := m.audioTime(audio); t < at {
				at, track, typ = t, &audio, TypeAudio
			}
			if d >= 0 && at >= d || at == never {
				return
			}
			number++
			f := frame{id: m.ID, number: number, track: *track + 1, time: m.Start + uint32(at.Milliseconds())}
			var body []byte
			if typ == TypeAudio {
				body = f.append([]byte{0xaf, 1}, m.AudioBitrate/8*aacSamples/aacRate)
			} else {
				body = m.video(f, video)
			}
			*track++
			if !yield(Message{Type: typ, Timestamp: f.time, Payload: body}) {
				return
			}
		}
	}
}

func (m Media) withDefaults() Media {
	for _, f := range []struct {
		field *int
		value int
	}{{&m.FPS, 25}, {&m.VideoBitrate, 500000}, {&m.AudioBitrate, 64000}} {
		if *f.field == 0 {
			*f.field = f.value
		}
	}
	if m.KeyframeInterval == 0 {
		m.KeyframeInterval = 2 * time.Second
	}
	return m
}

// never is the time of a track that the stream does not have.
const never = time.Duration(1<<63 - 1)

func (m Media) videoTime(n uint64) time.Duration {
	if m.VideoBitrate < 0 {
		return never
	}
	return time.Duration(n) * time.Second / time.Duration(m.FPS)
}

func (m Media) audioTime(n uint64) time.Duration {
	if m.AudioBitrate < 0 {
		return never
	}
	return time.Duration(n) * aacSamples * time.Second / aacRate
}

func (m Media) headers() []Message {
	var meta amf.ECMAArray
	var headers []Message
	add := func(typ uint8, text string) {
		p, err := hex.DecodeString(text)
		if err != nil {
			panic(err)
		}
		headers = append(headers, Message{Type: typ, Timestamp: m.Start, Payload: p})
	}
	if m.VideoBitrate > 0 {
		add(TypeVideo, avcHeader)
		meta = append(meta, amf.Property{Key: "width", Value: 320}, amf.Property{Key: "height", Value: 180},
			amf.Property{Key: "framerate", Value: m.FPS}, amf.Property{Key: "videocodecid", Value: 7})
	}
	if m.AudioBitrate > 0 {
		add(TypeAudio, aacHeader)
		meta = append(meta, amf.Property{Key: "audiosamplerate", Value: aacRate}, amf.Property{Key: "audiocodecid", Value: 10})
	}
	p := amf.Append(amf.Append(amf.Append(nil, "@setDataFrame"), "onMetaData"), meta)
	return append([]Message{{Type: TypeData, Timestamp: m.Start, Payload: p}}, headers...)
}

// video is the body of a video frame: a length and a NAL unit.
func (m Media) video(f frame, n uint64) []byte {
	gop := max(1, uint64(m.KeyframeInterval*time.Duration(m.FPS)/time.Second))
	size := int(uint64(m.VideoBitrate/8) * gop / uint64(m.FPS) / (gop + keyframeWeight - 1))
	head := []byte{0x27, 1, 0, 0, 0, 0, 0, 0, 0, 0x41}
	if n%gop == 0 {
		size *= keyframeWeight
		head[0], head[9] = 0x17, 0x65
	}
	body := f.append(head, size)
	binary.BigEndian.PutUint32(body[5:], uint32(len(body)-9))
	// The length is part of what is hashed.
	f.sign(body[len(head):], body)
	return body
}

// frame is the identity that a generated frame carries.
type frame struct {
	id     uint32
	number uint64 // in the stream, from 1
	track  uint64 // among the frames of its type, from 1
	time   uint32
}

// A frame begins with its codec's header, then magic, id, number, track, time
// and hash, and is filled up.
const (
	magic     = "fwdt"
	hashAt    = len(magic) + 4 + 8 + 8 + 4
	frameSize = hashAt + 8
	minBody   = 64
)

// append appends f to the codec's header, filled up to size bytes in all.
func (f frame) append(head []byte, size int) []byte {
	at := len(head)
	b := make([]byte, 0, max(size, minBody))
	b = append(append(b, head...), magic...)
	b = binary.BigEndian.AppendUint32(b, f.id)
	b = binary.BigEndian.AppendUint64(b, f.number)
	b = binary.BigEndian.AppendUint64(b, f.track)
	b = binary.BigEndian.AppendUint32(b, f.time)
	b = append(b, make([]byte, 8)...)
	for i := len(b); i < cap(b); i++ {
		b = append(b, byte(i)*31+byte(f.number))
	}
	f.sign(b[at:], b)
	return b
}

// sign puts the hash of body where it belongs in mark, which lies in body.
func (f frame) sign(mark, body []byte) {
	hash := mark[hashAt:frameSize]
	clear(hash)
	binary.BigEndian.PutUint64(hash, sum(body))
}

func sum(p []byte) uint64 {
	h := fnv.New64a()
	h.Write(p)
	return h.Sum64()
}

var (
	errNoFrame = errors.New("not a generated frame")
	errBroken  = errors.New("does not match its hash")
)

// parseFrame parses the identity of a generated frame.
func parseFrame(typ uint8, body []byte) (f frame, err error) {
	at := 2
	if typ == TypeVideo {
		at = 10
	}
	if len(body) < at+frameSize || string(body[at:at+len(magic)]) != magic {
		return f, errNoFrame
	}
	mark := body[at+len(magic):]
	f.id = binary.BigEndian.Uint32(mark)
	f.number = binary.BigEndian.Uint64(mark[4:])
	f.track = binary.BigEndian.Uint64(mark[12:])
	f.time = binary.BigEndian.Uint32(mark[20:])
	at += hashAt
	h := fnv.New64a()
	h.Write(body[:at])
	h.Write(make([]byte, 8))
	h.Write(body[at+8:])
	if h.Sum64() != binary.BigEndian.Uint64(body[at:]) {
		return f, errBroken
	}
	return f, nil
}

// ReadFLV returns the audio, video and data messages of an FLV file.
func ReadFLV(r io.Reader) ([]Message, error) {
	var out []Message
	tags := flv.NewReader(bufio.NewReader(r))
	for {
		typ, ms, body, err := tags.Next()
		switch {
		case err == io.EOF:
			return out, nil
		case err != nil:
			return out, fmt.Errorf("forwardtest: message %d: %w", len(out)+1, err)
		}
		switch typ {
		case TypeAudio, TypeVideo, TypeData:
			out = append(out, Message{Type: typ, Timestamp: ms, Payload: append([]byte(nil), body...)})
		}
	}
}
