package joy

import (
	"encoding/hex"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"testing"
	"time"

	"github.com/nareix/joy4/av"
	joyflv "github.com/nareix/joy4/format/flv"
	"github.com/nareix/joy4/format/mp4"
	"github.com/nareix/joy4/format/ts"
	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward/internal/flv"
)

// Bodies of frames with one NAL unit of one byte.
const (
	keyframe = "17010000000000000165"
	frame    = "27010000000000000141"
	aacFrame = "af0121"
)

// show writes packets as "stream@ms", with "K" for a keyframe and "+ms" for a
// composition time.
func show(pkts []av.Packet) []string {
	s := []string{}
	for _, p := range pkts {
		text := fmt.Sprintf("%d@%d", p.Idx, p.Time.Milliseconds())
		if p.IsKeyFrame {
			text += "K"
		}
		if p.CompositionTime != 0 {
			text += fmt.Sprintf("%+d", p.CompositionTime.Milliseconds())
		}
		s = append(s, text)
	}
	return s
}

func TestDecoder(t *testing.T) {
	v := func(ms uint32, body string) message { return video(t, ms, body) }
	a := func(ms uint32, body string) message { return audio(t, ms, body) }
	const wrap = math.MaxUint32
	for _, tc := range []struct {
		name     string
		messages []message
		want     []string
		types    []av.CodecType
		err      error
	}{
		{
			name:     "video before audio, whichever header comes first",
			messages: []message{a(0, aacHeader), a(0, aacFrame), v(0, avcHeader), v(0, keyframe), v(40, frame), a(41, aacFrame)},
			want:     []string{"1@0", "0@0K", "0@40", "1@41"}, types: []av.CodecType{av.H264, av.AAC},
		},
		{
			name:     "audio only",
			messages: []message{a(0, aacHeader), a(0, aacFrame), a(21, aacFrame)},
			want:     []string{"0@0", "0@21"}, types: []av.CodecType{av.AAC},
		},
		{
			name:     "Speex, known by its frames",
			messages: []message{a(0, "b201"), v(0, avcHeader), v(5, keyframe), a(20, "b202")},
			want:     []string{"1@0", "0@5K", "1@20"}, types: []av.CodecType{av.H264, av.SPEEX},
		},
		{
			name:     "data and unknown types are ignored",
			messages: []message{{flv.TypeData, 0, []byte{2}}, {0, 0, nil}, a(0, aacHeader), a(0, aacFrame)},
			want:     []string{"0@0"}, types: []av.CodecType{av.AAC},
		},
		{
			name:     "video from its first keyframe, audio before",
			messages: []message{v(0, avcHeader), a(0, aacHeader), v(0, frame), a(1, aacFrame), v(40, keyframe), v(80, frame)},
			want:     []string{"1@1", "0@40K", "0@80"}, types: []av.CodecType{av.H264, av.AAC},
		},
		{
			name:     "no frame before its header",
			messages: []message{v(0, keyframe), a(0, aacFrame), v(1, avcHeader), v(1, frame), v(2, keyframe)},
			want:     []string{"0@2K"}, types: []av.CodecType{av.H264},
		},
		{
			name: "composition times, disposable and generated keyframes",
			messages: []message{
				v(0, avcHeader), v(0, "1701000050"+"0000000165"), v(40, "3701fffffe"+"0000000141"), v(80, "47017fffff"+"0000000165"),
			},
			want: []string{"0@0K+80", "0@40-2", "0@80K+8388607"}, types: []av.CodecType{av.H264},
		},
		{
			name: "Enhanced RTMP's AVC and AAC",
			messages: []message{
				v(0, "9061766331"+avcHeader[10:]), a(0, "906d703461"+aacHeader[4:]),
				v(0, "9161766331"+"000050"+"0000000165"), v(40, "a361766331"+"0000000141"), a(41, "916d703461"+"21"),
			},
			want: []string{"0@0K+80", "0@40", "1@41"}, types: []av.CodecType{av.H264, av.AAC},
		},
		{
			name: "track 0 alone",
			messages: []message{
				v(0, avcHeader), v(0, keyframe), v(0, "9600"+"61766331"+"01"+avcHeader[10:]), v(10, "9601"+"61766331"+"01"+"0000000165"),
				v(20, "9603"+"68766331"+"02"+"0000000165"), v(30, "9603"+"61766331"+"00"+"0000000165"),
			},
			want: []string{"0@0K", "0@30K"}, types: []av.CodecType{av.H264},
		},
		{
			name:     "repeated headers, empty headers and ends change nothing",
			messages: []message{v(0, avcHeader), a(0, aacHeader), v(0, keyframe), v(1, avcHeader), v(1, "1700000000"), v(1, "1702000000"), a(1, "af00"), v(2, frame)},
			want:     []string{"0@0K", "0@2"}, types: []av.CodecType{av.H264, av.AAC},
		},
		{
			name:     "the same header in the other form is no change",
			messages: []message{v(0, avcHeader), a(0, aacHeader), v(0, keyframe), v(0, "9061766331"+avcHeader[10:]), v(2, frame)},
			want:     []string{"0@0K", "0@2"}, types: []av.CodecType{av.H264, av.AAC},
		},
		{
			name: "broken messages are left out",
			messages: []message{
				v(0, avcHeader), a(0, aacHeader), v(0, ""), v(0, "17"), v(0, "1701"), v(0, "1701000000"), a(0, ""), a(0, "af"), a(0, "af01"),
				v(0, "1701000000"+"000001"), v(0, "1701000000"+"0000000265"), v(0, "5700"), v(1, "2709000000"), v(9, keyframe),
			},
			want: []string{"0@9K"}, types: []av.CodecType{av.H264, av.AAC},
		},
		{
			name:     "a new header during the probe takes the place of the old with its frames",
			messages: []message{a(0, aacHeader), a(0, aacFrame), a(0, "af001190"), a(21, aacFrame)},
			want:     []string{"0@21"}, types: []av.CodecType{av.AAC},
		},
		{
			name: "changed video",
			messages: []message{
				v(0, avcHeader), a(0, aacHeader), v(0, keyframe), v(1, "17000000000164000cffe1001a6764000cacd941419f9f011000000300100000030320f142996001000468efbcb0fdf8f800"), v(1, keyframe),
			},
			want: []string{"0@0K"}, err: ErrStreamsChanged,
		},
		{
			name:     "changed audio codec",
			messages: []message{v(0, avcHeader), a(0, aacHeader), a(20, "b201")},
			want:     []string{}, err: ErrStreamsChanged,
		},
		{
			name:     "a stream that comes after the probe",
			messages: []message{a(0, aacHeader), a(0, aacFrame), a(2000, aacFrame), v(2001, frame), v(2002, avcHeader), v(2002, keyframe)},
			want:     []string{"0@0", "0@2000"}, err: ErrStreamsChanged,
		},
		{
			name:     "nothing but frames",
			messages: []message{a(0, aacFrame), v(0, keyframe), v(1999, frame), v(2000, frame)},
			want:     []string{}, err: ErrNoStreams,
		},
		{name: "nothing", want: []string{}, err: ErrNoStreams},
		{
			name:     "HEVC",
			messages: []message{a(0, aacHeader), a(0, aacFrame), v(0, "9068766331"+"01")},
			want:     []string{}, err: &CodecError{"hvc1"},
		},
		{
			name:     "HEVC in the legacy form",
			messages: []message{v(0, "1c00000000"+"01")},
			want:     []string{}, err: &CodecError{"hvc1"},
		},
		{name: "MP3", messages: []message{a(0, "2fff")}, want: []string{}, err: &CodecError{".mp3"}},
		{name: "Speex's FourCC", messages: []message{a(0, "9073706578"+"1190")}, want: []string{}, err: &CodecError{"speex"}},
		{name: "unknown codec", messages: []message{v(0, "1000")}, want: []string{}, err: &CodecError{"unknown"}},
		{
			name:     "timestamps beyond 2^32",
			messages: []message{v(0, avcHeader), a(wrap-40, aacHeader), v(wrap-39, keyframe), a(wrap-20, aacFrame), v(1, frame), a(2, aacFrame), a(wrap, aacFrame), v(41, frame)},
			want: []string{
				"0@4294967256K", "1@4294967275", "0@4294967297", "1@4294967298", "1@4294967298", "0@4294967337",
			}, types: []av.CodecType{av.H264, av.AAC},
		},
		{
			name:     "before zero",
			messages: []message{v(0, avcHeader), a(0, aacHeader), v(0, keyframe), a(wrap-39, aacFrame), v(40, frame), a(20, aacFrame)},
			want:     []string{"0@0K", "1@0", "0@40", "1@20"}, types: []av.CodecType{av.H264, av.AAC},
		},
		{
			name:     "small steps back are evened out within each stream",
			messages: []message{v(0, avcHeader), a(0, aacHeader), v(100, keyframe), a(20, aacFrame), v(60, frame), a(41, aacFrame), v(140, frame)},
			want:     []string{"0@100K", "1@20", "0@100", "1@41", "0@140"}, types: []av.CodecType{av.H264, av.AAC},
		},
		{
			name: "streams far apart are no restart",
			messages: []message{
				v(0, avcHeader), a(0, aacHeader), v(60_000, keyframe), a(0, aacFrame), v(60_040, frame), a(21, aacFrame),
			},
			want: []string{"0@60000K", "1@0", "0@60040", "1@21"}, types: []av.CodecType{av.H264, av.AAC},
		},
		{
			name: "timestamps that begin anew go on, streams together",
			messages: []message{
				v(0, avcHeader), a(0, aacHeader), v(60_000, keyframe), a(60_010, aacFrame),
				v(0, keyframe), a(10, aacFrame), v(40, frame), a(31, aacFrame),
			},
			want: []string{"0@60000K", "1@60010", "0@60010K", "1@60020", "0@60050", "1@60041"}, types: []av.CodecType{av.H264, av.AAC},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d := NewDecoder()
			var got []av.Packet
			var err error
			for _, m := range tc.messages {
				var pkts []av.Packet
				pkts, err = d.Write(m.typ, m.ms, m.body)
				got = append(got, pkts...)
				if err != nil {
					break
				}
			}
			if err == nil {
				var pkts []av.Packet
				pkts, err = d.Flush()
				got = append(got, pkts...)
			}
			require.Equal(t, tc.want, show(got))
			streams, streamsErr := d.Streams()
			require.Equal(t, tc.err, err)
			require.Equal(t, tc.err, streamsErr)
			if tc.err != nil {
				_, err := d.Write(flv.TypeAudio, 0, nil)
				require.Equal(t, tc.err, err, "final")
				_, err = d.Flush()
				require.Equal(t, tc.err, err, "final")
			}
			require.Equal(t, len(tc.types), len(streams))
			for i, typ := range tc.types {
				require.Equal(t, typ, streams[i].Type())
			}
			require.Zero(t, dirty(d), "packets kept after the probe")
		})
	}
}

// dirty returns how many packets a Decoder with known streams still holds.
func dirty(d *Decoder) int {
	if d.streams == nil {
		return 0
	}
	return len(d.held)
}

func TestProbeIsBounded(t *testing.T) {
	for _, tc := range []struct {
		name string
		step uint32
		size int
		want int // frames that are held after the header
	}{
		{"in messages", 1, 1, probeMessages - 1},
		{"in media time", 100, 1, 21},
		{"in bytes", 1, 1 << 20, 8},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d := NewDecoder()
			header := audio(t, 0, aacHeader)
			pkts, err := d.Write(header.typ, 0, header.body)
			require.NoError(t, err)
			require.Empty(t, pkts)
			body := make([]byte, 2+tc.size)
			body[0], body[1] = 0xaf, 1
			for i := 1; ; i++ {
				_, err := d.Streams()
				require.Equal(t, ErrProbing, err)
				pkts, err = d.Write(flv.TypeAudio, uint32(i)*tc.step, body)
				require.NoError(t, err)
				if len(pkts) > 0 {
					break
				}
				require.Less(t, i, tc.want)
			}
			require.Equal(t, tc.want, len(pkts))
			streams, err := d.Streams()
			require.NoError(t, err)
			require.Len(t, streams, 1)
		})
	}
}

func TestFilesOfOtherCodecs(t *testing.T) {
	for file, want := range map[string]string{
		"av1_opus.flv": "Opus", "h264_ac3.flv": "ac-3", "h264_flac.flv": "fLaC", "hevc_aac.flv": "hvc1",
		"mp3_only.flv": ".mp3", "vp9_opus.flv": "vp09", "multitrack_hevc_aac_opus.flv": "hvc1",
	} {
		t.Run(file, func(t *testing.T) {
			_, err := newDemuxer(readFile(t, file)).Streams()
			var codec *CodecError
			require.ErrorAs(t, err, &codec)
			require.Equal(t, want, codec.Codec)
			require.ErrorContains(t, err, want)
		})
	}
	streams, pkts := packets(t, newDemuxer(readFile(t, "multitrack_h264x2_aacx2.flv")))
	require.Len(t, streams, 2)
	require.NotEmpty(t, pkts)
}

func TestTimesNeverOverflow(t *testing.T) {
	d := NewDecoder()
	header, body := audio(t, 0, aacHeader), bytesOf(t, aacFrame)
	_, err := d.Write(header.typ, 0, header.body)
	require.NoError(t, err)
	last := time.Duration(0)
	for i := range uint32(20_000) {
		pkts, err := d.Write(flv.TypeAudio, i*math.MaxInt32, body)
		require.NoError(t, err)
		for _, p := range pkts {
			require.GreaterOrEqual(t, p.Time, last)
			last = p.Time
		}
	}
	require.Equal(t, maxTime*int64(time.Millisecond), int64(last))
}

// hostile calls f with all prefixes and with random mutations of valid bodies.
func hostile(t *testing.T, f func(typ uint8, body []byte)) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for _, m := range []message{
		video(t, 0, avcHeader), video(t, 0, "9061766331"+avcHeader[10:]), video(t, 0, keyframe),
		video(t, 0, "9161766331"+"000050"+"0000000165"), video(t, 0, "9601"+"61766331"+"00000008"+"0000500000000165"),
		audio(t, 0, aacHeader), audio(t, 0, "906d703461"+aacHeader[4:]), audio(t, 0, aacFrame), audio(t, 0, "b201"),
	} {
		for n := range m.body {
			f(m.typ, m.body[:n:n])
		}
		for range 500 {
			body := append([]byte(nil), m.body...)
			for range 1 + rnd.IntN(4) {
				body[rnd.IntN(len(body))] = byte(rnd.Uint32())
			}
			f(m.typ, body)
		}
	}
}

func TestHostileBodies(t *testing.T) {
	var before, after runtime.MemStats
	check := func(typ uint8, body []byte, f func()) {
		runtime.ReadMemStats(&before)
		f()
		runtime.ReadMemStats(&after)
		require.LessOrEqual(t, after.TotalAlloc-before.TotalAlloc, uint64(8*len(body)+64<<10), hex.EncodeToString(body))
	}
	headers := []message{video(t, 0, avcHeader), audio(t, 0, aacHeader)}
	hostile(t, func(typ uint8, body []byte) {
		for known := range 2 {
			d := NewDecoder()
			for _, m := range headers[:2*known] {
				_, err := d.Write(m.typ, m.ms, m.body)
				require.NoError(t, err)
			}
			check(typ, body, func() { _, _ = d.Write(typ, 0, body) })
		}
		check(typ, body, func() { _, _ = ParseStatistics(typ, body) })
	})

	// The largest number of parameter sets that a record can list.
	record := append(bytesOf(t, avcHeader)[:10:10], 0xff)
	record = append(record, make([]byte, 2*31)...)
	record = append(record, 0xff)
	record = append(record, make([]byte, 2*255)...)
	check(flv.TypeVideo, record, func() { _, _ = NewDecoder().Write(flv.TypeVideo, 0, record) })
}

func TestDecoderDoesNotAllocatePerPacket(t *testing.T) {
	d := NewDecoder()
	for _, m := range []message{video(t, 0, avcHeader), audio(t, 0, aacHeader)} {
		_, err := d.Write(m.typ, m.ms, m.body)
		require.NoError(t, err)
	}
	body := bytesOf(t, keyframe)
	require.Zero(t, testing.AllocsPerRun(100, func() { _, _ = d.Write(flv.TypeVideo, 0, body) }))
}

// FuzzDecoder writes messages: each is type (1 byte), timestamp (4), length (1) and body.
func FuzzDecoder(f *testing.F) {
	seed := func(messages ...message) {
		var b []byte
		for _, m := range messages {
			b = append(b, m.typ, byte(m.ms>>24), byte(m.ms>>16), byte(m.ms>>8), byte(m.ms), byte(len(m.body)))
			b = append(b, m.body...)
		}
		f.Add(b)
	}
	seed(video(f, 0, avcHeader), audio(f, 0, aacHeader), video(f, 0, keyframe), video(f, 40, frame), audio(f, 41, aacFrame))
	seed(audio(f, 0, aacHeader), audio(f, 0, aacFrame), audio(f, 3000, aacFrame))
	seed(audio(f, 0, "b201"), video(f, 0, "9061766331"+avcHeader[10:]), video(f, 0, "9161766331"+"000050"+"0000000165"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var messages []message
		for len(b) >= 6 {
			n := min(6+int(b[5]), len(b))
			ms := uint32(b[1])<<24 | uint32(b[2])<<16 | uint32(b[3])<<8 | uint32(b[4])
			messages = append(messages, message{b[0], ms, b[6:n:n]})
			b = b[n:]
		}
		src := newDemuxer(messages)
		streams, err := src.Streams()
		if err != nil {
			require.Empty(t, src.queue)
			return
		}
		var pkts []av.Packet
		var last [2]time.Duration
		started := false
		for {
			pkt, err := src.ReadPacket()
			if err != nil {
				break
			}
			require.Less(t, int(pkt.Idx), len(streams))
			require.NotEmpty(t, pkt.Data)
			require.GreaterOrEqual(t, pkt.Time, last[pkt.Idx])
			last[pkt.Idx] = pkt.Time
			if streams[pkt.Idx].Type().IsVideo() {
				started = started || pkt.IsKeyFrame
				require.True(t, started)
			}
			pkts = append(pkts, pkt)
		}

		// An Encoder and a second Decoder change nothing.
		m := newMuxer()
		require.NoError(t, m.WriteHeader(streams))
		for _, pkt := range pkts {
			require.NoError(t, m.WritePacket(pkt))
		}
		require.NoError(t, m.WriteTrailer())
		again, err := newDemuxer(m.messages).Streams()
		if streams[len(streams)-1].Type() != av.SPEEX { // Speex has no header
			require.NoError(t, err)
			require.Equal(t, streams, again)
			_, got := packets(t, newDemuxer(m.messages))
			require.Equal(t, len(pkts), len(got))
			for i := range pkts {
				if max(last[0], last[1]) < math.MaxInt32*time.Millisecond {
					require.Equal(t, show(pkts[i:i+1]), show(got[i:i+1]))
				}
				require.Equal(t, pkts[i].Data, got[i].Data)
			}
		}

		// joy4's muxers accept the packets.
		var file memory
		for _, dst := range []av.Muxer{joyflv.NewMuxer(&file), mp4.NewMuxer(&file), ts.NewMuxer(&file)} {
			if dst.WriteHeader(streams) != nil {
				continue // Speex
			}
			for _, pkt := range pkts {
				require.NoError(t, dst.WritePacket(pkt))
			}
			require.NoError(t, dst.WriteTrailer())
		}
	})
}

// memory is a file that discards its content.
type memory struct{ pos, size int64 }

func (m *memory) Write(b []byte) (int, error) {
	m.pos += int64(len(b))
	m.size = max(m.size, m.pos)
	return len(b), nil
}

func (m *memory) Seek(offset int64, whence int) (int64, error) {
	m.pos = offset + []int64{0, m.pos, m.size}[whence]
	return m.pos, nil
}
