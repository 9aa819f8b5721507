// Package flv classifies the bodies of audio, video and data messages by their first bytes,
// in the legacy form and in that of Enhanced RTMP. It reports what a relay needs: whether a
// message is a keyframe or a sequence header, and its track and codec. It does not change or
// copy bodies, and does not allocate. It treats unknown forms as ordinary frames. It also
// reads and writes the FLV file format, whose tags contain these bodies.
//
// Sources: Adobe Flash Video File Format 10.1, annex E; Enhanced RTMP v2,
// ExVideoTagHeader and ExAudioTagHeader.
package flv

import "iter"

// Types of messages with media. They are also FLV's tag types (RTMP 1.0, 7.1; Enhanced RTMP
// v2, FLV File Format Overview).
const (
	TypeAudio    uint8 = 8
	TypeVideo    uint8 = 9
	TypeDataAMF3 uint8 = 15
	TypeData     uint8 = 18
)

// Kind is the kind of one track's part of a message.
type Kind uint8

const (
	// KindNone has no use for later receivers. It is an empty payload, or a sequence
	// header without the configuration that its codec needs. Encoders send such headers at
	// the start and at the end; they must not replace a real one.
	KindNone Kind = iota
	// KindFrame is coded video that is not a keyframe, or coded audio.
	KindFrame
	// KindKeyframe is coded video from which decoding can start.
	KindKeyframe
	// KindSequenceHeader is the decoder configuration.
	KindSequenceHeader
	// KindConfig is state in addition to the sequence header: video Metadata (colorInfo) or
	// audio MultichannelConfig.
	KindConfig
	// KindEnd ends a sequence. Headers stay valid.
	KindEnd
	// KindCommand is a video info or command frame (FrameType 5).
	KindCommand
	// KindUnknown is an unknown or broken form. It is forwarded like an ordinary frame.
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

// Tag describes a whole message. The zero Tag is a message without known content, such as an
// empty body, and is forwarded like an ordinary frame.
//
// By the specification all tracks of a message have the same packet type. Several of the
// fields may nevertheless be true.
type Tag struct {
	// Keyframe says that decoding of track Track can start here. In a stream with several
	// tracks it starts a GOP only if Track is the main track, the lowest one of the stream.
	Keyframe bool
	// SequenceHeader says that the message contains the decoder configuration of at least
	// one track. Such a message is never a keyframe.
	SequenceHeader bool
	// Config says that the message contains state of at least one track that must be kept
	// for late joiners in addition to the sequence header (KindConfig).
	Config bool
	// End says that the message ends the sequence of at least one track.
	End bool
	// Frames says that the message contains coded media, or may contain some (Opaque). It
	// is false for a reserved packet type with the frame type of a keyframe: such a message
	// refers to nothing before it, and the first keyframe may need it like a sequence
	// header.
	Frames bool
	// Command says that the message is a video info or command frame, without media.
	Command bool
	// Disposable says that no other frame depends on this one (FrameType 3).
	Disposable bool
	// Enhanced says that the message has the form of Enhanced RTMP, Multitrack that it has
	// track ids.
	Enhanced, Multitrack bool
	// Opaque says that at least a part of the message is unknown or broken. It is forwarded
	// like an ordinary frame.
	Opaque bool
	// Track is the lowest track id in the message, or 0 if it has none.
	Track uint8
	// Codec is the codec of that track, or 0 if it is unknown.
	Codec Codec
}

// Track is one track's part of a message.
type Track struct {
	ID    uint8
	Kind  Kind
	Codec Codec
	// PacketType is the packet type as sent: VideoPacketType, AudioPacketType, or the legacy
	// AVCPacketType or AACPacketType. It is 1, coded frames, for legacy codecs without one.
	// It has no meaning for commands.
	PacketType uint8
	// Offset and Size are the range of the payload within the message body. The payload
	// follows FourCC, track id and size. It includes the composition time.
	Offset, Size int
}

// Slot identifies a piece of state that a late joiner needs. A header message is needed until
// later messages have filled all of its slots.
type Slot struct {
	Type   uint8 // TypeAudio or TypeVideo
	Track  uint8
	Config bool // KindConfig rather than the sequence header
}

// Video classifies the body of a video message.
func Video(body []byte) Tag { return summary(parseVideo(body), body) }

// Audio classifies the body of an audio message.
func Audio(body []byte) Tag { return summary(parseAudio(body), body) }

// Coded reports whether a message of type typ (TypeAudio or TypeVideo) whose body begins with
// head contains coded media, or may contain some. Headers, commands and the end of a sequence
// do not. A head of 32 bytes is enough.
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

// Tracks yields the parts of a message of type typ (TypeAudio or TypeVideo), one for each
// track, in order. It yields one part for a message without track ids, and none if the
// message is empty, broken or of another type. All parts lie within body. A track id may
// occur more than once.
func Tracks(typ uint8, body []byte) iter.Seq[Track] {
	return func(yield func(Track) bool) {
		parse(typ, body).each(body, yield)
	}
}

// Slots yields the slots that a message fills, each with its codec. It yields none for a
// message that is neither sequence header nor config.
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

// CompositionTime returns the time, in milliseconds, from a video frame's timestamp to its
// presentation. It may be negative. AVC, HEVC and VVC have one (Enhanced RTMP v2,
// ExVideoTagBody), and the legacy codecs in AVC's form. CodedFramesX have 0. ok is false if
// the message has none. For a multitrack message it is that of the first track.
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

// summary combines the tracks of a message into its Tag.
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
