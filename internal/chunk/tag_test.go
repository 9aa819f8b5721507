package chunk

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward/internal/flv"
)

// Frames of any chunk size, as tags, are what a Writer of FLV writes.
func TestLayout_AppendToAsTags(t *testing.T) {
	for _, size := range []int{64, 100, 60000} {
		for _, l := range []Layout{{Tags: true}, {Tags: true, Offset: 7}, {Tags: true, Offset: 0xfffffff0}, {Tags: true, Prefix: []byte("prefix")}} {
			t.Run(fmt.Sprintf("chunks of %d, offset %#x, behind %q", size, l.Offset, l.Prefix), func(t *testing.T) {
				framer := Framer{Size: size}
				var want bytes.Buffer
				w := flv.NewWriter(&want)
				require.NoError(t, w.WriteHeader(true, true))
				got := [][]byte{flv.AppendHeader(nil, true, true)}
				var scratch []byte
				for _, typ := range []uint8{TypeAudio, TypeVideo, TypeData} {
					for _, time := range times {
						for _, n := range lengths[:9] {
							p := pattern(n)
							require.NoError(t, w.WriteTag(typ, time+l.Offset, append([]byte(l.Prefix), p...)))
							got, scratch = l.AppendTo(got, scratch, framer.Frame(Header{Time: time, Type: typ}, p))
						}
					}
				}
				require.True(t, bytes.Equal(want.Bytes(), bytes.Join(got, nil)))
			})
		}
	}
}

// The payload of a tag is the frame's, and nothing is allocated when the slices are used
// again.
func TestLayout_TagsSharePayload(t *testing.T) {
	f := NewFrame(Header{Type: TypeVideo}, pattern(10000), 600)
	l := Layout{Tags: true}
	require.False(t, Layout{StreamID: MediaStreamID, Size: 600, Tags: true}.Shared(600))
	iov, scratch := l.AppendTo(nil, make([]byte, 0, 100), f)
	require.Same(t, &f.Head()[0], &iov[1][0])
	require.Zero(t, testing.AllocsPerRun(10, func() { iov, scratch = l.AppendTo(iov[:0], scratch[:0], f) }))
}
