package flv

import (
	"bytes"
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/iotest"

	"github.com/stretchr/testify/require"
)

const testdata = "../../testdata"

// track names one track of a file in the tests' tables.
type track struct {
	typ   uint8
	id    uint8
	codec string
}

// contents describes the contents of a file, by track.
type contents struct {
	frames    map[track]int // including keyframes
	keyframes map[track][]uint32
	headers   map[track]int
	configs   map[track]int
	ends      int
	metadata  int
}

func read(t testing.TB, file []byte) contents {
	c := contents{
		frames: map[track]int{}, keyframes: map[track][]uint32{},
		headers: map[track]int{}, configs: map[track]int{},
	}
	r := NewReader(bytes.NewReader(file))
	for {
		typ, timestamp, body, err := r.Next()
		if err == io.EOF {
			return c
		}
		require.NoError(t, err)
		if typ == TypeData {
			if Data(body, false).OnMetaData {
				c.metadata++
			}
			continue
		}
		require.False(t, classify(typ, body).Opaque)
		for tr := range Tracks(typ, body) {
			k := track{typ, tr.ID, tr.Codec.String()}
			switch tr.Kind {
			case KindKeyframe:
				c.frames[k]++
				c.keyframes[k] = append(c.keyframes[k], timestamp)
			case KindFrame:
				c.frames[k]++
			case KindSequenceHeader:
				c.headers[k]++
			case KindConfig:
				c.configs[k]++
			case KindEnd:
				c.ends++
			}
		}
	}
}

// The files were written by FFmpeg. They are 6 s long and have a keyframe every 2 s.
func TestFiles(t *testing.T) {
	var (
		avc    = track{TypeVideo, 0, "avc1"}
		avc1   = track{TypeVideo, 1, "avc1"}
		hevc   = track{TypeVideo, 0, "hvc1"}
		av1    = track{TypeVideo, 0, "av01"}
		vp9    = track{TypeVideo, 0, "vp09"}
		aac    = track{TypeAudio, 0, "mp4a"}
		aac1   = track{TypeAudio, 1, "mp4a"}
		mp3    = track{TypeAudio, 0, ".mp3"}
		ac3    = track{TypeAudio, 0, "ac-3"}
		flac   = track{TypeAudio, 0, "fLaC"}
		opus   = track{TypeAudio, 0, "Opus"}
		opus1  = track{TypeAudio, 1, "Opus"}
		everyS = []uint32{0, 2000, 4000}
	)
	for name, want := range map[string]contents{
		"aac_only.flv": {frames: map[track]int{aac: 283}, headers: map[track]int{aac: 1}},
		"mp3_only.flv": {frames: map[track]int{mp3: 231}},
		"h264_only.flv": {frames: map[track]int{avc: 150}, keyframes: map[track][]uint32{avc: everyS},
			headers: map[track]int{avc: 1}, ends: 1},
		"h264_aac.flv": {frames: map[track]int{avc: 150, aac: 283}, keyframes: map[track][]uint32{avc: everyS},
			headers: map[track]int{avc: 1, aac: 1}, ends: 1},
		"h264_ac3.flv": {frames: map[track]int{avc: 150, ac3: 188}, keyframes: map[track][]uint32{avc: everyS},
			headers: map[track]int{avc: 1, ac3: 1}, configs: map[track]int{ac3: 1}, ends: 1},
		"h264_flac.flv": {frames: map[track]int{avc: 150, flac: 282}, keyframes: map[track][]uint32{avc: everyS},
			headers: map[track]int{avc: 1, flac: 2}, configs: map[track]int{flac: 2}, ends: 1},
		"hevc_aac.flv": {frames: map[track]int{hevc: 150, aac: 283}, keyframes: map[track][]uint32{hevc: {0, 1960, 3960}},
			headers: map[track]int{hevc: 1, aac: 1}, configs: map[track]int{hevc: 1}},
		"av1_opus.flv": {frames: map[track]int{av1: 150, opus: 301}, keyframes: map[track][]uint32{av1: {7, 2007, 4007}},
			headers: map[track]int{av1: 1, opus: 1}, configs: map[track]int{av1: 1, opus: 1}},
		"vp9_opus.flv": {frames: map[track]int{vp9: 150, opus: 301}, keyframes: map[track][]uint32{vp9: {7, 2007, 4007}},
			headers: map[track]int{vp9: 1, opus: 1}, configs: map[track]int{vp9: 1, opus: 1}},
		"multitrack_h264x2_aacx2.flv": {frames: map[track]int{avc: 150, avc1: 150, aac: 283, aac1: 283},
			keyframes: map[track][]uint32{avc: everyS, avc1: everyS},
			headers:   map[track]int{avc: 1, avc1: 1, aac: 1, aac1: 1}, configs: map[track]int{aac1: 1}, ends: 2},
		"multitrack_hevc_aac_opus.flv": {frames: map[track]int{hevc: 150, aac: 283, opus1: 301},
			keyframes: map[track][]uint32{hevc: {0, 1840, 3840}},
			headers:   map[track]int{hevc: 1, aac: 1, opus1: 1}, configs: map[track]int{hevc: 1, opus1: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			file, err := os.ReadFile(filepath.Join(testdata, name))
			require.NoError(t, err)
			got := read(t, file)
			require.Equal(t, want.frames, got.frames)
			require.True(t, maps.EqualFunc(want.keyframes, got.keyframes, slices.Equal), "keyframes at %v", got.keyframes)
			require.True(t, maps.Equal(want.headers, got.headers), "headers %v", got.headers)
			require.True(t, maps.Equal(want.configs, got.configs), "configs %v", got.configs)
			require.Equal(t, want.ends, got.ends)
			require.Equal(t, 1, got.metadata)
		})
	}
}

func TestFilesRoundTrip(t *testing.T) {
	names, err := filepath.Glob(filepath.Join(testdata, "*.flv"))
	require.NoError(t, err)
	require.NotEmpty(t, names)
	for _, name := range names {
		file, err := os.ReadFile(name)
		require.NoError(t, err)
		var out bytes.Buffer
		require.NoError(t, transcribe(NewReader(iotest.OneByteReader(bytes.NewReader(file))), NewWriter(&out)), name)
		require.True(t, bytes.Equal(file, out.Bytes()), name)
	}
}

// transcribe copies all tags from r to w.
func transcribe(r *Reader, w *Writer) error {
	audio, video, err := r.Header()
	if err != nil {
		return err
	}
	if err := w.WriteHeader(audio, video); err != nil {
		return err
	}
	for {
		typ, timestamp, body, err := r.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if err := w.WriteTag(typ, timestamp, body); err != nil {
			return err
		}
	}
}

// oneTag is a file of one tag (FLV, E.2 and E.4.1).
const oneTag = "FLV\x01\x05\x00\x00\x00\x09\x00\x00\x00\x00" +
	"\x08\x00\x00\x03\x34\x56\x78\x12\x00\x00\x00\xaf\x01\x21\x00\x00\x00\x0e"

func TestWriter(t *testing.T) {
	var out bytes.Buffer
	w := NewWriter(&out)
	require.NoError(t, w.WriteTag(TypeAudio, 0x12345678, []byte{0xaf, 1, 0x21}))
	require.Equal(t, oneTag, out.String())
	require.Error(t, w.WriteHeader(true, true))
	require.ErrorIs(t, w.WriteTag(TypeVideo, 0, make([]byte, 1<<24)), ErrTagTooLarge)
	require.Equal(t, oneTag, out.String())

	for n, header := range []string{"\x00", "\x01", "\x04", "\x05"} {
		out.Reset()
		require.NoError(t, NewWriter(&out).WriteHeader(n&2 != 0, n&1 != 0))
		require.Equal(t, "FLV\x01"+header+"\x00\x00\x00\x09\x00\x00\x00\x00", out.String())
	}
}

func TestWriterPassesErrorsOn(t *testing.T) {
	for n := range len(oneTag) {
		w := NewWriter(&limitedWriter{n})
		require.ErrorIs(t, w.WriteTag(TypeAudio, 0, []byte{1, 2, 3}), errFull, "after %d bytes", n)
	}
}

var errFull = errors.New("full")

type limitedWriter struct{ left int }

func (w *limitedWriter) Write(p []byte) (int, error) {
	if len(p) > w.left {
		return w.left, errFull
	}
	w.left -= len(p)
	return len(p), nil
}

func TestReader(t *testing.T) {
	tag := func(r *Reader) string {
		typ, timestamp, body, err := r.Next()
		require.NoError(t, err)
		require.Equal(t, TypeAudio, typ)
		require.Equal(t, uint32(0x12345678), timestamp)
		return string(body)
	}
	reader := func(s string) *Reader { return NewReader(bytes.NewReader([]byte(s))) }

	r := reader(oneTag)
	audio, video, err := r.Header()
	require.NoError(t, err)
	require.True(t, audio && video)
	require.Equal(t, "\xaf\x01\x21", tag(r))
	_, _, _, err = r.Next()
	require.Equal(t, io.EOF, err)

	// Without the size after the last tag.
	r = reader(oneTag[:len(oneTag)-4])
	require.Equal(t, "\xaf\x01\x21", tag(r))
	_, _, _, err = r.Next()
	require.Equal(t, io.EOF, err)

	// With a longer file header.
	r = reader("FLV\x01\x05\x00\x00\x00\x20" + string(make([]byte, 23)) + oneTag[9:])
	require.Equal(t, "\xaf\x01\x21", tag(r))
}

func TestReaderErrors(t *testing.T) {
	next := func(r *Reader) error {
		_, _, _, err := r.Next()
		return err
	}
	reader := func(s string) *Reader { return NewReader(bytes.NewReader([]byte(s))) }

	for n := range 9 {
		require.ErrorIs(t, next(reader(oneTag[:n])), io.ErrUnexpectedEOF, "header cut at %d", n)
	}
	require.Equal(t, io.EOF, next(reader(oneTag[:9])))
	require.Equal(t, io.EOF, next(reader(oneTag[:13])))
	for n := 14; n < len(oneTag)-4; n++ {
		require.ErrorIs(t, next(reader(oneTag[:n])), io.ErrUnexpectedEOF, "tag cut at %d", n)
	}
	require.ErrorIs(t, next(reader("MP4\x01\x05\x00\x00\x00\x09")), ErrNotFLV)
	require.ErrorIs(t, next(reader("FLV\x01\x05\x00\x00\x00\x08")), ErrNotFLV)
	require.ErrorIs(t, next(reader("FLV\x01\x05\xff\xff\xff\xff....")), io.ErrUnexpectedEOF)
	require.ErrorIs(t, next(reader(oneTag[:13]+"\x28"+oneTag[14:])), ErrEncrypted)

	r := reader(oneTag)
	r.MaxTagSize = 2
	require.ErrorIs(t, next(r), ErrTagTooLarge)
	large := oneTag[:13] + "\x08\xff\xff\xff\x00\x00\x00\x00\x00\x00\x00"
	require.ErrorIs(t, next(reader(large)), ErrTagTooLarge)
}

func TestReaderGrowsWithWhatArrives(t *testing.T) {
	r := NewReader(bytes.NewReader([]byte(oneTag[:13] + "\x08\xff\xff\xff\x00\x00\x00\x00\x00\x00\x00 few bytes")))
	r.MaxTagSize = -1
	_, _, _, err := r.Next()
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	require.LessOrEqual(t, cap(r.body), readStep)
}

func TestLargestTag(t *testing.T) {
	body := make([]byte, maxBody)
	body[0], body[maxBody-1] = 1, 2
	var file bytes.Buffer
	require.NoError(t, NewWriter(&file).WriteTag(TypeVideo, 0, body))
	r := NewReader(&file)
	r.MaxTagSize = -1
	_, _, got, err := r.Next()
	require.NoError(t, err)
	require.True(t, bytes.Equal(body, got))
}

// A file that can be read can be written and is then read with the same result. Reading takes
// no more memory than the size of the file.
func FuzzReader(f *testing.F) {
	f.Add([]byte(oneTag))
	f.Add([]byte(oneTag + oneTag[13:]))
	f.Fuzz(func(t *testing.T, file []byte) {
		r := NewReader(bytes.NewReader(file))
		var out bytes.Buffer
		err := transcribe(r, NewWriter(&out))
		require.LessOrEqual(t, cap(r.body), readStep+2*len(file))
		if out.Len() == 0 {
			require.Error(t, err)
			return
		}
		require.LessOrEqual(t, out.Len(), len(file)+8) // the first and the last size may be missing
		var again bytes.Buffer
		require.NoError(t, transcribe(NewReader(bytes.NewReader(out.Bytes())), NewWriter(&again)))
		require.True(t, bytes.Equal(out.Bytes(), again.Bytes()))
	})
}
