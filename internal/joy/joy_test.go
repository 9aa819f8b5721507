package joy

import (
	"bytes"
	"encoding/hex"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/nareix/joy4/av"
	"github.com/nareix/joy4/av/avutil"
	joyflv "github.com/nareix/joy4/format/flv"
	"github.com/nareix/joy4/format/mp4"
	"github.com/nareix/joy4/format/mp4/mp4io"
	"github.com/nareix/joy4/format/ts"
	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward/internal/flv"
)

const testdata = "../../testdata"

// Bodies of the sequence headers in testdata.
const (
	avcHeader = "17000000000164000dffe1001a6764000dacd941419f9f011000000300100000030320f142996001000468efbcb0fdf8f800"
	aacHeader = "af00118856e500"
)

// message is an RTMP message.
type message struct {
	typ  uint8
	ms   uint32
	body []byte
}

func bytesOf(t testing.TB, s string) []byte {
	b, err := hex.DecodeString(s)
	require.NoError(t, err)
	return b
}

// video and audio return messages with a body given in hexadecimal.
func video(t testing.TB, ms uint32, body string) message {
	return message{flv.TypeVideo, ms, bytesOf(t, body)}
}

func audio(t testing.TB, ms uint32, body string) message {
	return message{flv.TypeAudio, ms, bytesOf(t, body)}
}

// readFile returns the messages of an FLV file.
func readFile(t testing.TB, name string) (messages []message) {
	file, err := os.ReadFile(filepath.Join(testdata, name))
	require.NoError(t, err)
	r := flv.NewReader(bytes.NewReader(file))
	for {
		typ, ms, body, err := r.Next()
		if err == io.EOF {
			return messages
		}
		require.NoError(t, err)
		messages = append(messages, message{typ, ms, bytes.Clone(body)})
	}
}

// ofType returns the messages of a type. An end of sequence gets time 0, because its time does
// not come from a packet.
func ofType(messages []message, typ uint8) (of []message) {
	for _, m := range messages {
		if m.typ != typ {
			continue
		}
		if typ == flv.TypeVideo && flv.Video(m.body).End {
			m.ms = 0
		}
		of = append(of, m)
	}
	return of
}

// demuxer is an av.DemuxCloser that reads messages.
type demuxer struct {
	d        *Decoder
	messages []message
	queue    []av.Packet
}

var _ av.DemuxCloser = (*demuxer)(nil)

func newDemuxer(messages []message) *demuxer { return &demuxer{d: NewDecoder(), messages: messages} }

func (x *demuxer) Streams() ([]av.CodecData, error) {
	for {
		streams, err := x.d.Streams()
		if err != ErrProbing {
			return streams, err
		}
		if err := x.next(); err != nil && err != io.EOF {
			return nil, err
		}
	}
}

func (x *demuxer) ReadPacket() (av.Packet, error) {
	for len(x.queue) == 0 {
		if err := x.next(); err != nil {
			return av.Packet{}, err
		}
	}
	pkt := x.queue[0]
	x.queue = x.queue[1:]
	return pkt, nil
}

func (x *demuxer) Close() error { return nil }

func (x *demuxer) next() error {
	if len(x.messages) == 0 {
		pkts, err := x.d.Flush()
		x.queue = append(x.queue, pkts...)
		if err == nil && len(x.queue) == 0 {
			err = io.EOF
		}
		return err
	}
	m := x.messages[0]
	x.messages = x.messages[1:]
	pkts, err := x.d.Write(m.typ, m.ms, m.body)
	x.queue = append(x.queue, pkts...)
	return err
}

// muxer is an av.MuxCloser that keeps the messages.
type muxer struct {
	*Encoder
	messages []message
}

var _ av.MuxCloser = (*muxer)(nil)

func newMuxer() *muxer {
	m := &muxer{}
	m.Encoder = NewEncoder(func(typ uint8, ms uint32, body []byte) error {
		m.messages = append(m.messages, message{typ, ms, bytes.Clone(body)})
		return nil
	})
	return m
}

func (m *muxer) Close() error { return nil }

// packets reads a demuxer to its end.
func packets(t testing.TB, x av.Demuxer) (streams []av.CodecData, pkts []av.Packet) {
	streams, err := x.Streams()
	require.NoError(t, err)
	for {
		pkt, err := x.ReadPacket()
		if err == io.EOF {
			return streams, pkts
		}
		require.NoError(t, err)
		pkts = append(pkts, pkt)
	}
}

func TestMessagesThroughPacketsAreTheSame(t *testing.T) {
	for _, name := range []string{"h264_aac.flv", "h264_only.flv", "aac_only.flv"} {
		t.Run(name, func(t *testing.T) {
			original := readFile(t, name)
			m := newMuxer()
			require.NoError(t, avutil.CopyFile(m, newDemuxer(original)))

			require.Equal(t, flv.TypeData, m.messages[0].typ)
			require.True(t, flv.Data(m.messages[0].body, false).OnMetaData)
			for _, typ := range []uint8{flv.TypeAudio, flv.TypeVideo} {
				require.Equal(t, ofType(original, typ), ofType(m.messages, typ))
			}
			reordered := 0
			for _, msg := range ofType(m.messages, flv.TypeVideo) {
				if cts, _ := flv.CompositionTime(msg.body); cts != 0 {
					reordered++
				}
			}
			if name != "aac_only.flv" {
				require.Greater(t, reordered, 100, "B-frames")
			}
		})
	}
}

func TestJoy4WritesWhatItReadsBack(t *testing.T) {
	for _, tc := range []struct {
		file, format string
	}{
		{"h264_aac.flv", "flv"}, {"h264_only.flv", "flv"}, {"aac_only.flv", "flv"},
		{"h264_aac.flv", "mp4"}, {"h264_aac.flv", "ts"},
	} {
		t.Run(tc.file+" to "+tc.format, func(t *testing.T) {
			streams, want := packets(t, newDemuxer(readFile(t, tc.file)))
			file, err := os.Create(filepath.Join(t.TempDir(), "out."+tc.format))
			require.NoError(t, err)
			defer file.Close()

			var dst av.Muxer
			switch tc.format {
			case "flv":
				dst = joyflv.NewMuxer(file)
			case "mp4":
				dst = mp4.NewMuxer(file)
			case "ts":
				dst = ts.NewMuxer(file)
			}
			require.NoError(t, avutil.CopyFile(dst, newDemuxer(readFile(t, tc.file))))
			_, err = file.Seek(0, io.SeekStart)
			require.NoError(t, err)

			var src av.Demuxer
			switch tc.format {
			case "flv":
				src = joyflv.NewDemuxer(file)
			case "mp4":
				src = mp4.NewDemuxer(file)
			case "ts":
				src = ts.NewDemuxer(file)
			}
			gotStreams, got := packets(t, src)
			require.Len(t, gotStreams, len(streams))
			for i := range streams {
				require.Equal(t, streams[i].Type(), gotStreams[i].Type())
				want, got := ofStream(want, i), ofStream(got, i)
				if tc.format == "mp4" {
					require.Equal(t, len(want), samples(t, file, i))
					// joy4's demuxer ends when the first of its streams ends.
					require.Greater(t, len(got), len(want)*9/10)
					want = want[:len(got)]
				}
				compare(t, want, got, tc.format)
			}
			if tc.format == "flv" {
				require.Equal(t, streams, gotStreams)
				require.Equal(t, want, got)
			}
		})
	}
}

func ofStream(pkts []av.Packet, idx int) (of []av.Packet) {
	for _, p := range pkts {
		if int(p.Idx) == idx {
			of = append(of, p)
		}
	}
	return of
}

// samples returns how many samples a track of an MP4 file has.
func samples(t *testing.T, file io.ReadSeeker, track int) int {
	_, err := file.Seek(0, io.SeekStart)
	require.NoError(t, err)
	atoms, err := mp4io.ReadFileAtoms(file)
	require.NoError(t, err)
	for _, a := range atoms {
		if moov, ok := a.(*mp4io.Movie); ok {
			return len(moov.Tracks[track].Media.Info.Sample.SampleSize.Entries)
		}
	}
	return 0
}

// compare compares the packets of one stream, as far as the format preserves them.
func compare(t *testing.T, want, got []av.Packet, format string) {
	t.Helper()
	require.Equal(t, len(want), len(got))
	for i := range want {
		if format != "ts" { // TS has no SEI
			require.Equal(t, want[i].Data, got[i].Data)
		}
		require.Equal(t, want[i].CompositionTime, got[i].CompositionTime)
		// The format preserves neither the first time of a track nor exact milliseconds.
		require.InDelta(t, want[i].Time-want[0].Time, got[i].Time-got[0].Time, float64(time.Millisecond))
	}
}
