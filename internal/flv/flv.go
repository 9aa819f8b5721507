// Package flv looks at the first bytes of audio, video and data message
// bodies, legacy and Enhanced RTMP alike, and tells what a relay has to know:
// is it a keyframe or a sequence header, of which track and codec. It never
// changes, copies or allocates, and what it does not understand it calls an
// ordinary frame. It also reads and writes the FLV file format, whose tags are
// those bodies.
//
// Sources: Adobe Flash Video File Format 10.1, annex E; Enhanced RTMP v2,
// ExVideoTagHeader and ExAudioTagHeader.
package flv

import "iter"

// Message types that carry media, which are also FLV's tag types (RTMP 1.0,
// 7.1; Enhanced RTMP v2, FLV File Format Overview).
const (
	TypeAudio    uint8 = 8
	TypeVideo    uint8 = 9
	TypeDataAMF3 uint8 = 15
	TypeData     uint8 = 18
)

// Kind says what one track's part of a message is.
type Kind uint8

const (
	// KindNone is nothing that anyone needs later: an empty payload, or a
	// sequence header without the configuration its codec cannot do without
	// (encoders send such at the start and at the end; it must not replace a
	// real one).
	KindNone Kind = iota
	// KindFrame is coded media that is no keyframe; all coded audio is.
	KindFrame
	// KindKeyframe is coded video from which decoding can start.
	KindKeyframe
	// KindSequenceHeader is the decoder configuration.
	KindSequenceHeader
	// KindConfig is state that belongs beside the sequence header: video
	// Metadata (colorInfo) or audio MultichannelConfig.
	KindConfig
	// KindEnd ends a sequence. Headers stay valid.
	KindEnd
	// KindCommand is a video info or command frame (FrameType 5).
	KindCommand
	// KindUnknown is an unknown or broken form. It passes like an ordinary
	// frame.
	KindUnknown
)

var kindNames = [...]string{"none", "frame", "keyframe", "sequence header", "config", "end", "command", "unknown"}

// String returns the kind's name, such as "sequence header".
func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return "invalid"
}

// Tag is what a whole message is. The zero Tag is a message that holds nothing
// known, such as an empty body, and passes like an ordinary frame.
//
// By the specification all tracks of a message share one packet type; the
// fields nevertheless do not exclude one another.
type Tag struct {
	// Keyframe: decoding of track Track can start here. In a stream with
	// several tracks it starts a GOP only if Track is the main track, the
	// lowest one that the stream has.
	Keyframe bool
	// SequenceHeader: holds the decoder configuration of at least one track.
	// It is never a keyframe.
	SequenceHeader bool
	// Config: holds what must be kept beside the sequence header for late
	// joiners (KindConfig) of at least one track.
	Config bool
	// End: ends the sequence of at least one track.
	End bool
	// Frames: holds coded media, or may hold some (Opaque). Not so a reserved
	// packet type whose frame type is that of a keyframe: it refers to
	// nothing before it, and may be what the first keyframe needs, as a
	// sequence header is.
	Frames bool
	// Command: a video info or command frame, without media.
	Command bool
	// Disposable: a frame on which no other depends (FrameType 3).
	Disposable bool
	// Enhanced: in Enhanced RTMP form. Multitrack: with track ids.
	Enhanced, Multitrack bool
	// Opaque: not understood, or broken, in part at least. It passes like an
	// ordinary frame.
	Opaque bool
	// Track is the lowest track id in the message, 0 where it has none.
	Track uint8
	// Codec is that track's, 0 when unknown.
	Codec Codec
}

// Track is one track's part of a message.
type Track struct {
	ID    uint8
	Kind  Kind
	Codec Codec
	// PacketType is the packet type as sent: VideoPacketType, AudioPacketType,
	// or the legacy AVCPacketType or AACPacketType. Legacy codecs without one
	// have 1, coded frames; commands have no meaningful one.
	PacketType uint8
	// Offset and Size bound the payload within the message body: what follows
	// FourCC, track id and size. A composition time is part of it.
	Offset, Size int
}

// Slot names one piece of state that a late joiner needs. A header message
// stays of use until each of its slots has been filled by a later message.
type Slot struct {
	Type   uint8 // TypeAudio or TypeVideo
	Track  uint8
	Config bool // KindConfig rather than the sequence header
}

// Video classifies the body of a video message.
func Video(body []byte) Tag { return summary(parseVideo(body), body) }

// Audio classifies the body of an audio message.
func Audio(body []byte) Tag { return summary(parseAudio(body), body) }

// Coded reports whether a message of type typ (TypeAudio or TypeVideo) whose
// body begins with head holds coded media, or may hold some. Headers, commands
// and the end of a sequence do not. 32 bytes are enough.
func Coded(typ uint8, head []byte) bool {
	h := parse(typ, head)
	switch {
	case h.form == formEmpty, h.command:
		return false
	case h.packetType == packetSequenceStart:
		return false
	case h.packetType == packetSequenceEnd:
		return !h.enhanced && !h.video
	case h.packetType == packetConfig:
		return !h.enhanced
	case h.packetType == packetMPEG2TSStart:
		return !h.enhanced || !h.video
	}
	return true
}

// Tracks yields the parts of a message of type typ (TypeAudio or TypeVideo),
// one for each track, in order; one for a message without track ids. It yields
// nothing if the message is empty, broken or of another type, so what it does
// yield lies within body. A track id may occur more than once.
func Tracks(typ uint8, body []byte) iter.Seq[Track] {
	return func(yield func(Track) bool) {
		parse(typ, body).each(body, yield)
	}
}

// Slots yields the slots that a message fills, with the codec of each; nothing
// for a message that is neither sequence header nor config.
func Slots(typ uint8, body []byte) iter.Seq2[Slot, Codec] {
	return func(yield func(Slot, Codec) bool) {
		parse(typ, body).each(body, func(t Track) bool {
			if t.Kind != KindSequenceHeader && t.Kind != KindConfig {
				return true
			}
			return yield(Slot{Type: typ, Track: t.ID, Config: t.Kind == KindConfig}, t.Codec)
		})
	}
}

// CompositionTime returns what a video frame adds to its timestamp for
// presentation, in milliseconds, negative included: for AVC, HEVC and VVC
// (Enhanced RTMP v2, ExVideoTagBody) and for the legacy codecs in AVC's form.
// CodedFramesX have 0. It is false where the message has none. Of a multitrack
// message it is that of the first track.
func CompositionTime(body []byte) (ms int32, ok bool) {
	h := parseVideo(body)
	for t := range Tracks(TypeVideo, body) {
		if t.Kind != KindFrame && t.Kind != KindKeyframe {
			return 0, false
		}
		at := t.Offset
		switch {
		case !h.enhanced && h.avcForm:
			at = 2
		case !h.enhanced || !t.Codec.reorders():
			return 0, false
		case t.PacketType == packetCodedFramesX:
			return 0, true
		}
		return int32(uint32(body[at])<<24|uint32(body[at+1])<<16|uint32(body[at+2])<<8) >> 8, true
	}
	return 0, false
}

// summary folds the tracks of a message into its Tag.
func summary(h header, body []byte) Tag {
	tag := Tag{Enhanced: h.enhanced, Multitrack: h.multitrack}
	if h.form == formOpaque {
		tag.Opaque, tag.Frames, tag.Codec = true, true, h.codec
		return tag
	}
	first := true
	h.each(body, func(t Track) bool {
		if first || t.ID < tag.Track {
			first = false
			tag.Track, tag.Codec, tag.Keyframe = t.ID, t.Codec, t.Kind == KindKeyframe
		}
		switch t.Kind {
		case KindFrame, KindKeyframe:
			tag.Frames = true
			tag.Disposable = h.disposable
		case KindSequenceHeader:
			tag.SequenceHeader = true
		case KindConfig:
			tag.Config = true
		case KindEnd:
			tag.End = true
		case KindCommand:
			tag.Command = true
		case KindUnknown:
			tag.Opaque = true
			tag.Frames = tag.Frames || !h.reservedKey()
		}
		return true
	})
	return tag
}
