package joy

import (
	"bytes"
	"math"
	"slices"
	"time"

	"github.com/nareix/joy4/av"

	"github.com/rtmp-forward/forward/internal/flv"
)

// The probe for streams ends with the first of these.
const (
	probeMessages = 256
	probeTime     = 2000    // milliseconds of media
	probeBytes    = 8 << 20 // of messages held
)

const (
	// restartStep is the step back of a track's time, in milliseconds, beyond which the
	// timestamps have started again. A smaller step is a disorder.
	restartStep = 10_000
	// maxTime limits times in milliseconds, so that no time.Duration overflows.
	maxTime = math.MaxInt64 / int64(time.Millisecond) / 2
)

// Decoder converts messages to the streams and packets of an av.Demuxer. It is not safe for
// concurrent use.
//
// It accepts the legacy form and that of Enhanced RTMP, if the codec is H.264, AAC or Speex.
// Of tracks with ids it uses track 0 and ignores the others. It skips broken and unknown
// messages, video before its first keyframe, and media before its sequence header.
//
// Times never go back within a stream. Timestamps continue beyond 2^32, and small disorder is
// removed. If timestamps start again, more than 10 s lower, the packets' times continue from
// the latest one.
type Decoder struct {
	streams      []av.CodecData // nil during the probe
	video, audio track
	err          error

	// The timestamps' common clock, in milliseconds.
	started bool
	last    uint32
	now     int64 // last, without the wrap at 2^32
	offset  int64 // from now to the packets' times
	latest  int64 // latest time of a packet

	// The probe.
	begin     int64
	messages  int
	held      []av.Packet
	heldBytes int

	one [1]av.Packet
}

// track is the state of the audio or of the video.
type track struct {
	codec  flv.Codec // 0 until the sequence header
	data   av.CodecData
	header []byte
	idx    int8
	open   bool  // its first keyframe has come
	time   int64 // of its last packet, in milliseconds
}

// NewDecoder returns a Decoder for a stream whose sequence headers come first, or soon.
func NewDecoder() *Decoder {
	// The indexes of held packets are those of a stream with video and audio.
	return &Decoder{video: track{idx: 0}, audio: track{idx: 1}}
}

// Write decodes a message with a type, a timestamp in milliseconds, and a body. It keeps the
// body, which must not change. It returns no or one packet. When the streams become known,
// it returns all packets that were held until then, at most 256 or about 8 MiB. The slice is
// valid until the next call. The packets' Data are parts of the bodies.
//
// Types other than audio and video are ignored. The error is a *CodecError,
// ErrStreamsChanged, ErrNoStreams, or that of a broken sequence header. It is final: all
// later calls return it.
func (d *Decoder) Write(typ uint8, ms uint32, body []byte) ([]av.Packet, error) {
	if d.err != nil {
		return nil, d.err
	}
	pkts, err := d.write(typ, ms, body)
	d.err = err
	return pkts, err
}

// Streams returns the streams, video before audio. A packet's Idx is the index in this slice.
// The streams are known when both have had a sequence header. Otherwise those known after 256
// messages, 2 s of media time, 8 MiB or Flush are used. Until then the error is ErrProbing.
// After an error of Write, Streams returns that.
func (d *Decoder) Streams() ([]av.CodecData, error) {
	switch {
	case d.err != nil:
		return nil, d.err
	case d.streams == nil:
		return nil, ErrProbing
	}
	return d.streams, nil
}

// Flush ends the probe, because no more messages will come, and returns the packets held. The
// error is ErrNoStreams if there is no stream. If the streams are known, Flush does nothing.
func (d *Decoder) Flush() ([]av.Packet, error) {
	if d.err != nil || d.streams != nil {
		return nil, d.err
	}
	pkts, err := d.endProbe()
	d.err = err
	return pkts, err
}

func (d *Decoder) write(typ uint8, ms uint32, body []byte) ([]av.Packet, error) {
	tr := d.track(typ)
	if tr == nil {
		return nil, nil
	}
	pkt, ok, err := d.message(tr, typ, ms, body)
	switch {
	case err != nil:
		return nil, err
	case d.streams == nil:
		if ok {
			d.held = append(d.held, pkt)
			d.heldBytes += len(body)
		}
		return d.probe()
	case ok:
		d.one[0] = pkt
		return d.one[:], nil
	}
	return nil, nil
}

func (d *Decoder) track(typ uint8) *track {
	switch typ {
	case flv.TypeVideo:
		return &d.video
	case flv.TypeAudio:
		return &d.audio
	}
	return nil
}

// tick moves the clock to the time nearest to now that has a frame's timestamp. It is not
// called for headers: many have timestamp 0, or that of their first transmission.
func (d *Decoder) tick(ms uint32) {
	if !d.started {
		d.started = true
		d.last, d.now, d.begin = ms, int64(ms), int64(ms)
	}
	d.now += int64(int32(ms - d.last))
	d.last = ms
}

// message decodes track 0's part of a message.
func (d *Decoder) message(tr *track, typ uint8, ms uint32, body []byte) (pkt av.Packet, ok bool, err error) {
	for part := range flv.Tracks(typ, body) {
		if part.ID != 0 {
			continue
		}
		switch part.Kind {
		case flv.KindFrame, flv.KindKeyframe, flv.KindSequenceHeader:
		default:
			return pkt, false, nil
		}
		if !supported(typ, part.Codec, body) {
			return pkt, false, &CodecError{Codec: part.Codec.String()}
		}
		if part.Kind == flv.KindSequenceHeader {
			return pkt, false, d.header(tr, part, body)
		}
		d.tick(ms)
		return d.frame(tr, typ, part, body)
	}
	return pkt, false, nil
}

func supported(typ uint8, c flv.Codec, body []byte) bool {
	if typ == flv.TypeVideo {
		return c == flv.CodecAVC
	}
	// Speex has no Enhanced form, but a peer may send its FourCC.
	return c == flv.CodecAAC || c == flv.CodecSpeex && body[0]>>4 == speex
}

// header reads a sequence header. It ignores one that is repeated, as many encoders do.
func (d *Decoder) header(tr *track, part flv.Track, body []byte) error {
	config := payload(part, body)
	if tr.codec == part.Codec && bytes.Equal(tr.header, config) {
		return nil
	}
	if d.streams != nil {
		return ErrStreamsChanged
	}
	var data av.CodecData
	var err error
	if part.Codec == flv.CodecAVC {
		data, err = parseAVC(config)
	} else {
		data, err = parseAAC(config)
	}
	if err != nil {
		return err
	}
	d.begins(tr, part.Codec, data, config)
	return nil
}

// begins sets the track's codec and header. It replaces those that were set earlier in the
// probe, and drops the track's held packets.
func (d *Decoder) begins(tr *track, c flv.Codec, data av.CodecData, config []byte) {
	tr.codec, tr.data, tr.header, tr.open = c, data, config, false
	d.held = slices.DeleteFunc(d.held, func(p av.Packet) bool { return p.Idx == tr.idx })
}

// speexStream describes a stream of Speex. In FLV it has one sample rate (E.4.2.1).
type speexStream struct{ channels av.ChannelLayout }

func (speexStream) Type() av.CodecType                           { return av.SPEEX }
func (speexStream) SampleRate() int                              { return 16000 }
func (speexStream) SampleFormat() av.SampleFormat                { return av.S16 }
func (s speexStream) ChannelLayout() av.ChannelLayout            { return s.channels }
func (speexStream) PacketDuration([]byte) (time.Duration, error) { return 20 * time.Millisecond, nil }

// frame returns the packet of a frame. ok is false if its track has not begun.
func (d *Decoder) frame(tr *track, typ uint8, part flv.Track, body []byte) (pkt av.Packet, ok bool, err error) {
	if part.Codec == flv.CodecSpeex && tr.codec != flv.CodecSpeex {
		if d.streams != nil {
			return pkt, false, ErrStreamsChanged
		}
		layout := av.CH_MONO
		if body[0]&stereo != 0 {
			layout = av.CH_STEREO
		}
		d.begins(tr, part.Codec, speexStream{layout}, nil)
	}
	if tr.codec != part.Codec {
		return pkt, false, nil
	}
	pkt = av.Packet{Idx: tr.idx, Data: payload(part, body)}
	if typ == flv.TypeVideo {
		composition := int32(0)
		switch enhanced := body[0]&0x80 != 0; {
		case !enhanced:
			composition = int24(body[2:])
		case part.PacketType == codedFrames:
			composition, pkt.Data = int24(pkt.Data), pkt.Data[3:]
		}
		if !wholeNALU(pkt.Data) {
			return pkt, false, nil
		}
		pkt.IsKeyFrame = part.Kind == flv.KindKeyframe
		if tr.open = tr.open || pkt.IsKeyFrame; !tr.open {
			return pkt, false, nil
		}
		pkt.CompositionTime = time.Duration(composition) * time.Millisecond
	}
	pkt.Time = d.time(tr)
	return pkt, true, nil
}

// codedFrames is the packet type whose payload begins with a composition time (Enhanced RTMP
// v2, ExVideoTagBody).
const codedFrames = 1

func payload(part flv.Track, body []byte) []byte {
	end := part.Offset + part.Size
	return body[part.Offset:end:end]
}

func int24(b []byte) int32 {
	return int32(uint32(b[0])<<24|uint32(b[1])<<16|uint32(b[2])<<8) >> 8
}

// time returns the time of a packet of the track, from the current clock.
func (d *Decoder) time(tr *track) time.Duration {
	t := d.now + d.offset
	if t < tr.time-restartStep {
		d.offset += d.latest - t
		t = d.latest
	}
	tr.time = min(max(t, tr.time), maxTime)
	d.latest = max(d.latest, tr.time)
	return time.Duration(tr.time) * time.Millisecond
}

// probe ends the probe if one of its limits is reached, or if both streams are known.
func (d *Decoder) probe() ([]av.Packet, error) {
	d.messages++
	if d.video.data != nil && d.audio.data != nil ||
		d.messages >= probeMessages || d.now-d.begin >= probeTime || d.heldBytes >= probeBytes {
		return d.endProbe()
	}
	return nil, nil
}

func (d *Decoder) endProbe() ([]av.Packet, error) {
	for _, tr := range []*track{&d.video, &d.audio} {
		if tr.data != nil {
			tr.idx = int8(len(d.streams))
			d.streams = append(d.streams, tr.data)
		}
	}
	if d.streams == nil {
		return nil, ErrNoStreams
	}
	pkts := d.held
	d.held = nil
	if d.video.data == nil {
		for i := range pkts {
			pkts[i].Idx = d.audio.idx
		}
	}
	return pkts, nil
}
