//go:build interop

package interop

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward/internal/flv"
)

// tag is one message of a stream, which is one tag of an FLV file.
type tag struct {
	typ  uint8
	ms   uint32
	body []byte
}

func (m tag) String() string {
	return fmt.Sprintf("type %d at %d ms, %d bytes %.16x", m.typ, m.ms, len(m.body), m.body)
}

// clip is a stream to publish.
type clip struct {
	name string
	path string
	tags []tag
	// classic: H.264, AAC and MP3 in the format of FLV 10.1, which peers without
	// Enhanced RTMP can parse.
	classic bool
	// modern: also one track of HEVC, AV1 or VP9 in the format of Enhanced RTMP v1,
	// which FFmpeg supports since 6.1.
	modern bool
}

// ms is the timestamp of the clip's last message.
func (c *clip) ms() uint32 { return c.tags[len(c.tags)-1].ms }

// mediaDir holds the files generated for all tests of a run.
var mediaDir string

// generate makes a clip, once for all tests.
func generate(name string, make func(t *testing.T, path string)) func(t *testing.T) *clip {
	var (
		mu sync.Mutex
		c  *clip
	)
	return func(t *testing.T) *clip {
		mu.Lock()
		defer mu.Unlock()
		if c == nil {
			path := filepath.Join(mediaDir, name+".flv")
			make(t, path)
			c = load(t, name, path)
		}
		return c
	}
}

// The generated clips.
var (
	bframes = generate("bframes", func(t *testing.T, path string) {
		run(t, "ffmpeg", slices.Concat(quiet, testVideo("640x360"), testAudio, x264, aac, toFLV(path))...)
	})
	audioOnly = generate("audio", func(t *testing.T, path string) {
		run(t, "ffmpeg", slices.Concat(quiet, testAudio, aac, toFLV(path))...)
	})
	videoOnly = generate("video", func(t *testing.T, path string) {
		run(t, "ffmpeg", slices.Concat(quiet, testVideo("640x360"), x264, toFLV(path))...)
	})
	// bigKeyframes has keyframes above 200 KB: static noise.
	bigKeyframes = generate("big-keyframes", func(t *testing.T, path string) {
		run(t, "ffmpeg", slices.Concat(quiet,
			input("color=gray:size=1920x1080:rate=10,noise=alls=80"), testAudio,
			[]string{"-c:v", "libx264", "-preset", "ultrafast", "-qp", "38", "-g", "10", "-pix_fmt", "yuv420p"},
			aac, toFLV(path))...)
	})
	// resolution changes size in the middle: a second sequence header.
	resolution = generate("resolution-change", func(t *testing.T, path string) {
		small, large := path+".1", path+".2"
		run(t, "ffmpeg", slices.Concat(quiet, testVideo("320x180"), testAudio, x264, aac, []string{"-t", "3"}, toFLV(small))...)
		run(t, "ffmpeg", slices.Concat(quiet, testVideo("640x360"), testAudio, x264, aac, []string{"-t", "3"}, toFLV(large))...)
		concatenate(t, path, small, large)
	})
	generated = []func(*testing.T) *clip{bframes, audioOnly, videoOnly, bigKeyframes, resolution}
	// modern are clips that only a current FFmpeg can write as FLV.
	modern = []func(*testing.T) *clip{
		encoded("hevc-bframes", "libx265", "-x265-params", "log-level=error:bframes=3:keyint=25:min-keyint=25:scenecut=0:open-gop=0"),
		encoded("hevc-10bit", "libx265", "-x265-params", "log-level=error:bframes=0:keyint=25:min-keyint=25:scenecut=0", "-pix_fmt", "yuv420p10le"),
		encoded("av1", "libsvtav1", "-preset", "11", "-crf", "45", "-g", "25"),
		encoded("vp9", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8", "-b:v", "300k", "-g", "25"),
	}
)

// encoded makes a clip with a video encoder of a current FFmpeg.
func encoded(name string, video ...string) func(t *testing.T) *clip {
	return generate(name, func(t *testing.T, path string) {
		run(t, newFFmpeg, slices.Concat(quiet, testVideo("320x180"), testAudio, []string{"-c:v"}, video, aac, toFLV(path))...)
	})
}

var (
	quiet     = []string{"-v", "error", "-nostdin", "-y"}
	testAudio = input("sine=frequency=440:sample_rate=44100")
	x264      = []string{"-c:v", "libx264", "-preset", "veryfast", "-bf", "3", "-b_strategy", "0",
		"-g", "25", "-keyint_min", "25", "-sc_threshold", "0", "-pix_fmt", "yuv420p", "-b:v", "600k"}
	aac = []string{"-c:a", "aac", "-b:a", "96k"}
)

func input(graph string) []string { return []string{"-f", "lavfi", "-t", "6", "-i", graph} }

func testVideo(size string) []string { return input("testsrc2=rate=25:size=" + size) }

func toFLV(path string) []string { return []string{"-f", "flv", path} }

// concatenate joins FLV files in time. The later ones lose their metadata, like an
// encoder that changes its settings in mid-stream and sends none.
func concatenate(t *testing.T, path string, parts ...string) {
	f, err := os.Create(path)
	require.NoError(t, err)
	defer f.Close()
	w := flv.NewWriter(f)
	var offset, last uint32
	for i, part := range parts {
		tags, err := readFLV(part)
		require.NoError(t, err)
		for _, m := range tags {
			if kind(m) == flv.KindEnd || m.typ == flv.TypeData && i > 0 {
				continue
			}
			last = max(last, offset+m.ms)
			require.NoError(t, w.WriteTag(m.typ, offset+m.ms, m.body))
		}
		offset = last + 40
	}
}

// repository returns the clips of testdata.
func repository(t *testing.T) []*clip {
	paths, err := filepath.Glob("../../testdata/*.flv")
	require.NoError(t, err)
	require.NotEmpty(t, paths)
	var out []*clip
	for _, path := range paths {
		out = append(out, load(t, strings.TrimSuffix(filepath.Base(path), ".flv"), path))
	}
	return out
}

// h264aac is the clip of testdata that all peers support.
func h264aac(t *testing.T) *clip { return load(t, "h264_aac", "../../testdata/h264_aac.flv") }

func load(t *testing.T, name, path string) *clip {
	tags, err := readFLV(path)
	require.NoError(t, err)
	require.NotEmpty(t, tags, path)
	c := &clip{name: name, path: path, tags: tags, classic: true, modern: true}
	for _, m := range c.tags {
		c.classic = c.classic && !enhanced(m)
		c.modern = c.modern && (!enhanced(m) || v1(m))
	}
	return c
}

// readFLV reads a file. It ignores an incomplete tag at the end, which a stopped
// recorder may leave.
func readFLV(path string) ([]tag, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var out []tag
	r := flv.NewReader(bufio.NewReader(f))
	for {
		typ, ms, body, err := r.Next()
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return out, nil
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", filepath.Base(path), err)
		}
		out = append(out, tag{typ, ms, bytes.Clone(body)})
	}
}

func writeFLV(path string, tags []tag) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	w := flv.NewWriter(f)
	for _, m := range tags {
		if err := w.WriteTag(m.typ, m.ms, m.body); err != nil {
			return err
		}
	}
	return f.Close()
}

// kind is the codec of a message's first track.
func kind(m tag) flv.Kind {
	for t := range flv.Tracks(m.typ, m.body) {
		return t.Kind
	}
	return flv.KindNone
}

func isKeyframe(m tag) bool {
	return m.typ == flv.TypeVideo && flv.Video(m.body).Keyframe
}

// enhancedVideo reports whether c has video messages of Enhanced RTMP. nginx-rtmp takes
// the highest bit for a low-priority frame type and drops them.
func enhancedVideo(c *clip) bool {
	return slices.ContainsFunc(c.tags, func(m tag) bool { return m.typ == flv.TypeVideo && enhanced(m) })
}

func enhanced(m tag) bool {
	switch m.typ {
	case flv.TypeAudio:
		return flv.Audio(m.body).Enhanced
	case flv.TypeVideo:
		return flv.Video(m.body).Enhanced
	}
	return false
}

// v1 reports whether m is in the format of Enhanced RTMP v1: a video message with a
// FourCC and no tracks.
func v1(m tag) bool {
	if m.typ != flv.TypeVideo {
		return false
	}
	switch v := flv.Video(m.body); v.Codec {
	case flv.CodecHEVC, flv.CodecAV1, flv.CodecVP9:
		return !v.Multitrack
	}
	return false
}

// frames returns the coded frames of one type. A peer must not omit, repeat or rebuild
// any of them.
func frames(tags []tag, typ uint8) []tag {
	var out []tag
	for _, m := range tags {
		if m.typ != typ {
			continue
		}
		switch kind(m) {
		case flv.KindFrame, flv.KindKeyframe, flv.KindUnknown:
			out = append(out, m)
		}
	}
	return out
}

// headers returns the sequence headers of one type, each change once.
func headers(tags []tag, typ uint8) [][]byte {
	last := make(map[flv.Slot][]byte)
	var out [][]byte
	for _, m := range tags {
		if m.typ != typ {
			continue
		}
		changed := false
		for slot := range flv.Slots(m.typ, m.body) {
			changed = changed || !bytes.Equal(last[slot], m.body)
			last[slot] = m.body
		}
		if changed {
			out = append(out, m.body)
		}
	}
	return out
}

// rule says how a receiver may change a stream.
type rule struct {
	// late: it joined the running stream and must start at a keyframe after the first.
	late bool
	// pushed: its destination was still connecting when the publisher started, so it
	// may start at any keyframe.
	pushed bool
	// cut is how many of the last frames it may lose: rtmp2src ends at StreamEOF, even
	// with pending frames.
	cut int
	// sound: the sound format bits of an audio tag may change; they mean nothing for
	// AAC (FLV 10.1, E.4.2.1).
	sound bool
	// remuxed: sequence headers may be rebuilt.
	remuxed bool
}

// checkRun compares the received with the published messages. Of each type a receiver
// must have an unbroken run of frames from a keyframe to the end, in order, with
// unchanged bytes and timestamps, after the sequence header in force.
func checkRun(want, got []tag, r rule) error {
	for _, typ := range []uint8{flv.TypeVideo, flv.TypeAudio} {
		name := map[uint8]string{flv.TypeVideo: "video", flv.TypeAudio: "audio"}[typ]
		w, g := frames(want, typ), frames(got, typ)
		if len(w) == 0 && len(g) == 0 {
			continue
		}
		if len(g) == 0 || len(g) > len(w) {
			return fmt.Errorf("%s: %d frames of %d", name, len(g), len(w))
		}
		at := len(w) - len(g)
		for n := 0; n < r.cut && at > 0 && !r.same(w[at], g[0]); n++ {
			at--
		}
		if typ == flv.TypeVideo && !isKeyframe(g[0]) {
			return fmt.Errorf("%s begins with a frame that is no keyframe", name)
		}
		const second = 1000
		switch began := w[at].ms - w[0].ms; {
		case r.late && began == 0:
			return fmt.Errorf("%s: a late joiner got all %d frames", name, len(g))
		case !r.late && !r.pushed && (typ == flv.TypeVideo && at > 0 || began > second):
			return fmt.Errorf("%s: %d frames of %d, the first %d are missing or some on the way", name, len(g), len(w), at)
		}
		for i := range g {
			if !r.same(w[at+i], g[i]) {
				return fmt.Errorf("%s: frame %d of %d is %v, published was %v", name, i, len(g), g[i], w[at+i])
			}
		}
		if err := checkHeaders(want, got, typ, r); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

// same reports whether two messages are equal, apart from what r allows.
func (r rule) same(a, b tag) bool {
	if r.sound && a.typ == flv.TypeAudio && len(a.body) > 0 && len(b.body) > 0 && a.body[0]>>4 == b.body[0]>>4 {
		a.body, b.body = a.body[1:], b.body[1:]
	}
	return a.typ == b.typ && a.ms == b.ms && bytes.Equal(a.body, b.body)
}

func checkHeaders(want, got []tag, typ uint8, r rule) error {
	w, g := headers(want, typ), headers(got, typ)
	if r.late || r.pushed { // headers replaced before it joined may be missing
		w = w[max(0, len(w)-len(g)):]
	}
	if len(w) != len(g) {
		return fmt.Errorf("%d sequence headers of %d", len(g), len(w))
	}
	for i := range w {
		if !r.remuxed && !bytes.Equal(w[i], g[i]) {
			return fmt.Errorf("sequence header %d differs: %x, published was %x", i, g[i], w[i])
		}
	}
	if len(w) == 0 {
		return nil
	}
	for _, m := range got {
		if m.typ == typ {
			if k := kind(m); k == flv.KindSequenceHeader {
				return nil
			} else if k == flv.KindFrame || k == flv.KindKeyframe {
				return errors.New("a frame before the sequence header")
			}
		}
	}
	return nil
}

// checkAll compares every message: data messages, headers and frames, in their common
// order.
func checkAll(want, got []tag) error {
	for i := range min(len(want), len(got)) {
		if !(rule{}).same(want[i], got[i]) {
			return fmt.Errorf("message %d is %v, published was %v", i, got[i], want[i])
		}
	}
	if len(want) != len(got) {
		return fmt.Errorf("%d messages of %d", len(got), len(want))
	}
	return nil
}
