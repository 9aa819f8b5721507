//go:build linux

package main

import (
	"encoding/binary"
	"hash/crc32"
	"math/rand/v2"
	"time"
)

// profile says what a publisher sends: AVC video at 30 frames a second with a
// keyframe every 2 s, and AAC audio at 44.1 kHz.
type profile struct {
	bitrate    int // of video and audio together, bit/s
	audioBytes int // per audio frame
	slower     int // how often fewer frames a second there are, if not 0
}

const (
	videoRate      = 30
	gopFrames      = 2 * videoRate
	keyframeWeight = 4 // a keyframe's size, as a multiple of other frames
	audioSamples   = 1024
	audioRate      = 44100
)

var (
	profile500k = profile{bitrate: 500_000, audioBytes: 186}
	profile2M   = profile{bitrate: 2_000_000, audioBytes: 372}
	profile4M   = profile{bitrate: 4_000_000, audioBytes: 372}
	profile8M   = profile{bitrate: 8_000_000, audioBytes: 372}
	profile20M  = profile{bitrate: 20_000_000, audioBytes: 372}
	profile3M   = profile{bitrate: 3_200_000, audioBytes: 372}
	profile200k = profile{bitrate: 200_000, audioBytes: 93}
	// For loads that would be too much for the load's CPU.
	profile50k  = profile{bitrate: 50_000, audioBytes: 93, slower: 10}
	profileIdle = profile{bitrate: 20_000, audioBytes: 93, slower: 30}
)

// frameTime is n times the duration of one of rate frames a second.
func (p profile) frameTime(n uint64, rate int64) int64 {
	return int64(n) * int64(time.Second) * int64(max(p.slower, 1)) / rate
}

// A media payload is a tag header (AVC: 5 bytes, then the NAL unit's length and type;
// AAC: 2 bytes), the mark below and filler. The CRC-32C covers everything except
// itself.
const (
	videoHead = 5 + 4 + 1
	audioHead = 2
	maxHead   = videoHead + markSize

	markMagic  = 0x46776442
	markSize   = 44
	markCRC    = markSize - 4
	fillerStep = 4099 // distance between the filler offsets of consecutive frames
	fillerSpan = 64 << 10
)

// mark is the checkable header that the publisher writes into each frame.
type mark struct {
	stream uint32
	gop    uint32
	size   uint32 // of the payload
	number uint64 // number of the frame among all frames
	track  uint64 // number of the frame among those of its kind
	sent   int64  // when its first byte was written, on the clock of now
}

var (
	castagnoli = crc32.MakeTable(crc32.Castagnoli)
	filler     = randomBytes(fillerSpan + 2<<20)

	videoHeader = []byte("\x17\x00\x00\x00\x00\x01\x4d\x40\x1f\xff\xe1\x00\x0a\x67\x4d\x40\x1f\xe8\x80\x28\x02\xdd\x80\x01\x00\x04\x68\xeb\xef\x20")
	audioHeader = []byte{0xaf, 0x00, 0x12, 0x10}
)

func randomBytes(n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{1}).Read(b)
	return b
}

// stream makes the frames of one publisher.
type stream struct {
	profile
	id        uint32
	chunkSize int
	start     int64 // when frame 0 is due, on the clock of now
	clock     bool  // timestamps follow the clock even if frames are made faster

	number, video, audio uint64 // frames made
}

// due returns when the next frame is due.
func (s *stream) due() int64 {
	at, _ := s.next()
	return at
}

func (s *stream) next() (at int64, video bool) {
	v, a := s.frameTime(s.video, videoRate), s.frameTime(s.audio*audioSamples, audioRate)
	if v <= a {
		return s.start + v, true
	}
	return s.start + a, false
}

// appendHeaders appends metadata and both sequence headers.
func (s *stream) appendHeaders(dst []byte, msgStream uint32) []byte {
	meta := appendString(nil, "@setDataFrame")
	meta = appendString(meta, "onMetaData")
	meta = appendObject(meta, "videocodecid", 7.0, "audiocodecid", 10.0, "framerate", float64(videoRate))
	dst = appendMessage(dst, 5, typeData, 0, msgStream, s.chunkSize, meta, nil)
	dst = appendMessage(dst, 6, typeVideo, 0, msgStream, s.chunkSize, videoHeader, nil)
	return appendMessage(dst, 4, typeAudio, 0, msgStream, s.chunkSize, audioHeader, nil)
}

// appendFrame appends the next frame, marked as sent at the given time.
func (s *stream) appendFrame(dst []byte, msgStream uint32, sent int64) []byte {
	at, video := s.next()
	size, m := s.size(video), mark{stream: s.id, number: s.number, sent: sent}
	var buf [maxHead]byte
	var head []byte
	id, typ := uint8(4), uint8(typeAudio)
	if video {
		key := s.video%gopFrames == 0
		id, typ = 6, typeVideo
		m.track = s.video
		head = append(buf[:0], 0x27, 1, 0, 0, 0)
		head = binary.BigEndian.AppendUint32(head, uint32(size-videoHead+1))
		head = append(head, 0x41)
		if key {
			head[0], head[videoHead-1] = 0x17, 0x65
		}
		s.video++
	} else {
		m.track = s.audio
		head = append(buf[:0], 0xaf, 1)
		s.audio++
	}
	m.gop = uint32((s.video - 1) / gopFrames)
	m.size = uint32(size)
	head = m.append(head)
	from := s.number * fillerStep % fillerSpan
	body := filler[from : from+uint64(size-len(head)-4)]
	crc := crc32.Update(crc32.Update(0, castagnoli, head), castagnoli, body)
	head = binary.BigEndian.AppendUint32(head, crc)
	s.number++
	if s.clock {
		at = sent
	}
	return appendMessage(dst, id, typ, uint32((at-s.start)/int64(time.Millisecond)), msgStream, s.chunkSize, head, body)
}

// size returns the payload size of the next frame. Frames other than
// keyframes vary by a quarter around their mean.
func (s *stream) size(video bool) int {
	if !video {
		return s.audioBytes
	}
	perFrame := (float64(s.bitrate*max(s.slower, 1))/8 - float64(s.audioBytes)*audioRate/audioSamples) / videoRate
	perFrame *= gopFrames / float64(gopFrames-1+keyframeWeight)
	if s.video%gopFrames == 0 {
		return int(perFrame * keyframeWeight)
	}
	return max(int(perFrame*(0.75+0.5*float64(s.video*7%59)/58)), maxHead+16)
}

// append appends the mark without its CRC.
func (m *mark) append(dst []byte) []byte {
	dst = binary.BigEndian.AppendUint32(dst, markMagic)
	dst = binary.BigEndian.AppendUint32(dst, m.stream)
	dst = binary.BigEndian.AppendUint32(dst, m.gop)
	dst = binary.BigEndian.AppendUint32(dst, m.size)
	dst = binary.BigEndian.AppendUint64(dst, m.number)
	dst = binary.BigEndian.AppendUint64(dst, m.track)
	return binary.BigEndian.AppendUint64(dst, uint64(m.sent))
}

// parse reads a mark from b, which holds markSize bytes, and returns its CRC.
func (m *mark) parse(b []byte) (crc uint32, ok bool) {
	m.stream = binary.BigEndian.Uint32(b[4:])
	m.gop = binary.BigEndian.Uint32(b[8:])
	m.size = binary.BigEndian.Uint32(b[12:])
	m.number = binary.BigEndian.Uint64(b[16:])
	m.track = binary.BigEndian.Uint64(b[24:])
	m.sent = int64(binary.BigEndian.Uint64(b[32:]))
	return binary.BigEndian.Uint32(b[markCRC:]), binary.BigEndian.Uint32(b) == markMagic
}

// headSize is the offset at which the filler of a media message of type typ starts.
func headSize(typ uint8) uint32 {
	if typ == typeVideo {
		return videoHead + markSize
	}
	return audioHead + markSize
}
