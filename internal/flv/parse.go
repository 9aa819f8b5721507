package flv

// Frame types (FLV, E.4.3.1; Enhanced RTMP v2, VideoFrameType).
const (
	frameKey          = 1
	frameDisposable   = 3
	frameGeneratedKey = 4
	frameCommand      = 5
)

// Packet types (Enhanced RTMP v2, VideoPacketType and AudioPacketType). The
// first three have the same values as AVCPacketType, and the first two as
// AACPacketType.
const (
	packetSequenceStart = 0
	packetCodedFrames   = 1
	packetSequenceEnd   = 2
	packetCodedFramesX  = 3 // video
	packetConfig        = 4 // video Metadata, audio MultichannelConfig
	packetMPEG2TSStart  = 5 // video
	packetAudioTracks   = 5 // Multitrack
	packetVideoTracks   = 6 // Multitrack
	packetModEx         = 7
	packetReserved      = 8 // and all above
)

// Multitrack forms (Enhanced RTMP v2, AvMultitrackType).
const (
	oneTrack             = 0
	manyTracks           = 1
	manyTracksManyCodecs = 2
)

const (
	soundFormatAAC = 10
	soundFormatEx  = 9
	// maxTracks is the number of tracks in one message that are accepted. Track ids are bytes, so
	// more tracks are abuse: each takes time to read.
	maxTracks = 256
)

// form is the layout of a message's tracks.
type form uint8

const (
	formEmpty  form = iota // no tracks
	formOpaque             // unknown, no tracks
	formSingle             // track 0 has all bytes from offset on
	formOneTrack
	formManyTracks
	formManyCodecs
)

// header is the part of a message that applies to all its tracks.
type header struct {
	form       form
	video      bool
	enhanced   bool
	multitrack bool
	avcForm    bool // legacy form with an AVCPacketType and a composition time
	key        bool
	disposable bool
	command    bool
	packetType uint8
	codec      Codec // 0 if each track has its own
	offset     int   // of the payload, or of the first track
}

func parse(typ uint8, body []byte) header {
	switch typ {
	case TypeVideo:
		return parseVideo(body)
	case TypeAudio:
		return parseAudio(body)
	}
	return header{}
}

func parseVideo(body []byte) header {
	if len(body) == 0 {
		return header{}
	}
	frameType := body[0] >> 4 & 7
	h := header{
		video:      true,
		key:        frameType == frameKey || frameType == frameGeneratedKey,
		disposable: frameType == frameDisposable,
	}
	if body[0]&0x80 == 0 {
		return h.legacyVideo(body, frameType)
	}
	h.enhanced = true
	h.packetType = body[0] & 0x0f
	h.offset = 1
	if !h.skipModEx(body) {
		return h.opaque()
	}
	if frameType == frameCommand && !h.isMetadata(body) {
		// One command byte and neither FourCC nor payload.
		if h.offset >= len(body) {
			return h.opaque()
		}
		h.form, h.command = formSingle, true
		return h
	}
	return h.tracks(body, packetVideoTracks)
}

// isMetadata reports whether the packet is Metadata, also inside a multitrack packet. Its
// FrameType must be ignored. Its second byte could otherwise only be a reserved command.
func (h *header) isMetadata(body []byte) bool {
	if h.packetType == packetVideoTracks && h.offset < len(body) {
		return body[h.offset]&0x0f == packetConfig
	}
	return h.packetType == packetConfig
}

func (h header) legacyVideo(body []byte, frameType uint8) header {
	id := body[0] & 0x0f
	h.codec = legacyVideo[id]
	h.form, h.offset = formSingle, 1
	switch {
	case frameType == frameCommand:
		// The second byte is the command, even in AVC's form, where it is the packet type.
		h.command = true
	case id == 7 || id == 9 || id >= 12:
		h.avcForm = true
		if len(body) < 2 {
			return h.opaque()
		}
		h.packetType, h.offset = body[1], 5
		if len(body) < 5 {
			if h.packetType != packetSequenceEnd {
				return h.opaque()
			}
			h.offset = len(body) // some encoders leave out the composition time
		}
	default:
		h.packetType = packetCodedFrames
	}
	return h
}

func parseAudio(body []byte) header {
	if len(body) == 0 {
		return header{}
	}
	format := body[0] >> 4
	h := header{offset: 1}
	switch format {
	case soundFormatEx:
		h.enhanced = true
		h.packetType = body[0] & 0x0f
		if !h.skipModEx(body) {
			return h.opaque()
		}
		return h.tracks(body, packetAudioTracks)
	case soundFormatAAC:
		h.codec = CodecAAC
		if len(body) < 2 {
			return h.opaque()
		}
		h.form, h.packetType, h.offset = formSingle, body[1], 2
	default:
		h.codec = legacyAudio[format]
		h.form, h.packetType = formSingle, packetCodedFrames
	}
	return h
}

// skipModEx skips the ModEx packets, known or not, and reads the packet type after them
// (Enhanced RTMP v2, ExVideoTagHeader, ExAudioTagHeader). It returns false if the body ends
// before that.
func (h *header) skipModEx(body []byte) bool {
	for h.packetType == packetModEx {
		rest := body[h.offset:]
		if len(rest) == 0 {
			return false
		}
		at, size := 1, int(rest[0])+1
		if size == 256 {
			if len(rest) < 3 {
				return false
			}
			at, size = 3, (int(rest[1])<<8|int(rest[2]))+1
		}
		if len(rest) <= at+size {
			return false
		}
		h.packetType = rest[at+size] & 0x0f
		h.offset += at + size + 1
	}
	return true
}

// tracks reads the bytes after the packet type: the multitrack byte if the packet type is
// multitrack, and the FourCC if all tracks have the same one.
func (h header) tracks(body []byte, multitrack uint8) header {
	h.form = formSingle
	if h.packetType == multitrack {
		h.multitrack = true
		if h.offset >= len(body) {
			return h.opaque()
		}
		multitrackType := body[h.offset] >> 4
		h.packetType = body[h.offset] & 0x0f
		h.offset++
		switch multitrackType {
		case oneTrack:
			h.form = formOneTrack
		case manyTracks:
			h.form = formManyTracks
		case manyTracksManyCodecs:
			h.form = formManyCodecs
		default:
			return h.opaque()
		}
		if h.packetType == packetModEx || h.packetType == multitrack {
			return h.opaque()
		}
	}
	if h.form != formManyCodecs {
		if len(body)-h.offset < 4 {
			return h.opaque()
		}
		h.codec = fourCC(body[h.offset:])
		h.offset += 4
	}
	if h.multitrack && !h.fits(body) {
		return h.opaque()
	}
	return h
}

// fits reports whether there are 1 to maxTracks tracks and all end within body.
func (h *header) fits(body []byte) bool {
	at, n := h.offset, 0
	for n == 0 || at < len(body) {
		t, ok := h.track(body, at)
		if !ok || n == maxTracks {
			return false
		}
		at = t.Offset + t.Size
		n++
	}
	return true
}

// track returns the track of a multitrack message whose part begins at at.
func (h *header) track(body []byte, at int) (Track, bool) {
	t := Track{Codec: h.codec, PacketType: h.packetType}
	rest := body[at:]
	if h.form == formManyCodecs {
		if len(rest) < 4 {
			return t, false
		}
		t.Codec = fourCC(rest)
		rest = rest[4:]
	}
	if len(rest) < 1 {
		return t, false
	}
	t.ID = rest[0]
	rest = rest[1:]
	t.Size = len(rest)
	if h.form != formOneTrack {
		if len(rest) < 3 {
			return t, false
		}
		t.Size = int(rest[0])<<16 | int(rest[1])<<8 | int(rest[2])
		rest = rest[3:]
	}
	t.Offset = len(body) - len(rest)
	t.Kind = h.kind(t.Codec, t.Size)
	return t, t.Size <= len(rest)
}

// each yields the tracks of a message until yield returns false.
func (h header) each(body []byte, yield func(Track) bool) {
	switch h.form {
	case formEmpty, formOpaque:
	case formSingle:
		size := len(body) - h.offset
		yield(Track{Kind: h.kind(h.codec, size), Codec: h.codec, PacketType: h.packetType, Offset: h.offset, Size: size})
	default:
		for at := h.offset; at < len(body); {
			t, ok := h.track(body, at)
			if !ok || !yield(t) {
				return
			}
			at = t.Offset + t.Size
		}
	}
}

// kind returns the kind of a payload of size bytes.
func (h *header) kind(codec Codec, size int) Kind {
	if h.command {
		return KindCommand
	}
	switch {
	case h.packetType == packetSequenceStart,
		h.packetType == packetMPEG2TSStart && h.enhanced && h.video:
		if size == 0 && (codec.needsConfig() || !h.enhanced) {
			return KindNone
		}
		return KindSequenceHeader
	case h.packetType == packetCodedFrames,
		h.packetType == packetCodedFramesX && h.enhanced && h.video:
		return h.frame(codec, size)
	case h.packetType == packetSequenceEnd && (h.enhanced || h.video):
		return KindEnd
	case h.packetType == packetConfig && h.enhanced:
		return KindConfig
	}
	return KindUnknown
}

func (h *header) frame(codec Codec, size int) Kind {
	if h.enhanced && h.video && h.packetType == packetCodedFrames && codec.reorders() {
		if size < 3 {
			return KindUnknown
		}
		size -= 3
	}
	switch {
	case size == 0:
		return KindNone
	case h.video && h.key:
		return KindKeyframe
	}
	return KindFrame
}

// reservedKey reports whether the message has a reserved packet type of video and the frame
// type of a keyframe.
func (h *header) reservedKey() bool {
	return h.enhanced && h.video && h.key && h.packetType >= packetReserved
}

func (h header) opaque() header {
	h.form = formOpaque
	return h
}

func fourCC(b []byte) Codec {
	return Codec(b[0])<<24 | Codec(b[1])<<16 | Codec(b[2])<<8 | Codec(b[3])
}
