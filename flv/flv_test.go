package flv_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/flv"
	"github.com/rtmp-forward/forward/testdata"
)

func all(t *testing.T, file []byte) (out []forward.Message) {
	r := flv.NewReader(bytes.NewReader(file))
	for {
		m, err := r.Next()
		if err == io.EOF {
			return out
		}
		require.NoError(t, err)
		out = append(out, m)
	}
}

// What is read and written again is the same, except for times, which begin at 0, also
// with a clock that passes 2^32.
func TestFilesAreTheSame(t *testing.T) {
	files, err := filepath.Glob("../testdata/ertmp/*.flv")
	require.NoError(t, err)
	want := map[string][]byte{"clip": testdata.H264AAC}
	for _, name := range files {
		want[name], err = os.ReadFile(name)
		require.NoError(t, err)
	}
	for name, file := range want {
		for _, start := range []uint32{0, 5_000_000, 1<<32 - 500} {
			t.Run(fmt.Sprint(filepath.Base(name), " ", start), func(t *testing.T) {
				messages := all(t, file)
				require.NotEmpty(t, messages)
				var b bytes.Buffer
				w := flv.NewWriter(&b)
				for _, m := range messages {
					m.Timestamp += start
					require.NoError(t, w.Write(m))
				}
				again := all(t, b.Bytes())
				require.Len(t, again, len(messages))
				last := messages[len(messages)-1].Timestamp
				require.LessOrEqual(t, again[len(again)-1].Timestamp, last)
				for i := range again {
					require.Equal(t, messages[i].Type, again[i].Type)
					require.Equal(t, messages[i].Payload, again[i].Payload)
				}
			})
		}
	}
}

func TestReaderRefuses(t *testing.T) {
	_, err := flv.NewReader(bytes.NewReader([]byte("no file of ours, this"))).Next()
	require.ErrorIs(t, err, flv.ErrNotFLV)
	_, err = flv.NewReader(bytes.NewReader(testdata.H264AAC[:1000])).Next()
	require.NoError(t, err)
	r := flv.NewReader(bytes.NewReader(testdata.H264AAC[:1000]))
	for err == nil {
		_, err = r.Next()
	}
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	require.ErrorIs(t, flv.NewWriter(io.Discard).Write(forward.Message{Type: forward.TagData, Payload: make([]byte, 1<<24)}), flv.ErrTagTooLarge)
}

// Record a stream, of whatever codecs, to a file.
func ExampleWriter() {
	var file bytes.Buffer
	recorded := make(chan error, 1)
	srv := forward.NewServer(forward.Config{
		Logger: slog.New(slog.DiscardHandler),
		Hooks: forward.Hooks{OnSource: func(src *forward.Source) {
			sub := src.Subscribe(context.Background())
			go func() {
				w := flv.NewWriter(&file)
				for {
					m, err := sub.Next()
					if err == nil {
						err = w.Write(m)
					}
					if err != nil {
						recorded <- err // io.EOF at the end of the stream
						return
					}
				}
			}()
		}},
	})
	defer srv.Close()
	pub, err := srv.Publish(context.Background(), forward.Request{App: "live", Stream: "cam"})
	if err != nil {
		fmt.Println(err)
		return
	}
	n := 0
	for r := flv.NewReader(bytes.NewReader(testdata.H264AAC)); ; n++ {
		m, err := r.Next()
		if err != nil {
			break
		}
		pub.WriteTag(m.Type, m.Timestamp, m.Payload)
	}
	pub.Close()
	fmt.Println(<-recorded, bytes.HasPrefix(file.Bytes(), []byte("FLV")))
	// Output: EOF true
}
