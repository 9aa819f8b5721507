package gop

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward/internal/chunk"
)

// Receivers of FLV at the same place share what was made for the first one, and not with
// players of RTMP.
func TestBatch_TagsAreShared(t *testing.T) {
	f := stream()
	at := func(b *Batch, l chunk.Layout) *Cursor {
		c := began(f, l, false)
		b.Fill(c, 1)
		b.Sent(c, b.Len())
		return c
	}
	var b Batch
	tags := chunk.Layout{Tags: true}
	one, two, player := at(&b, tags), at(&b, tags), at(&b, layouts[0])
	b.Fill(one, 1<<20)
	require.Same(t, &f.Get(one.Next()).Frame.Head()[0], &b.IOV()[1][0], "the payload is the log's")
	iov := b.IOV()
	require.Zero(t, testing.AllocsPerRun(100, func() { b.Fill(two, 1<<20) }))
	require.Same(t, &iov[0][0], &b.IOV()[0][0])

	want := bytes.Clone(bytes.Join(b.IOV(), nil))
	b.Fill(player, 1<<20)
	require.NotEqual(t, want, bytes.Join(b.IOV(), nil))
	b.Fill(two, 1<<20)
	require.Equal(t, want, bytes.Join(b.IOV(), nil))
}

// One system call takes a batch, however small its messages are.
func TestBatch_HasNoMorePiecesThanACallTakes(t *testing.T) {
	f := newFeed(wide)
	f.video(avcHeader, avcKey)
	for range 3000 {
		f.audio(aacFrame)
	}
	for _, l := range []chunk.Layout{{Tags: true}, layouts[1]} {
		t.Run(fmt.Sprint(l), func(t *testing.T) {
			c := f.startWith(l, false)
			var b Batch
			messages := uint64(0)
			for c.Lag() > 0 {
				b.Fill(c, 1<<20)
				require.LessOrEqual(t, len(b.IOV()), 1024)
				n, _, rest := b.Sent(c, b.Len())
				require.Nil(t, rest)
				messages += uint64(n)
			}
			require.EqualValues(t, 3001, messages)
		})
	}
}
