package gop

import (
	"math"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward/internal/chunk"
)

// all is what a cursor sends now, in batches of random size of which random
// parts are taken, as sequence numbers.
func all(r *rand.Rand, c *Cursor) (seqs []uint64) {
	var b Batch
	for {
		b.Fill(c, 1+r.IntN(200))
		if b.Len() == 0 {
			return seqs
		}
		marks := append([]mark(nil), b.marks...)
		n, _, _ := b.Sent(c, 1+r.IntN(b.Len()))
		for _, m := range marks[:n] {
			seqs = append(seqs, m.m.Seq)
		}
	}
}

// However a stream looks, what one cursor has sent when it stops at a keyframe
// and what another sends from there is every message, once.
func TestHandoverLosesNothing(t *testing.T) {
	for seed := range uint64(500) {
		r := rand.New(rand.NewPCG(seed, 0))
		l := New(Limits{Bytes: 1 << 20, Age: math.MaxInt64})
		var old, next Cursor
		l.Slowest = func() uint64 { return old.Next() }
		var f chunk.Framer
		f.Size = 128
		video := r.IntN(4) > 0
		write := func() *Message {
			body := []byte{0x27, 1, 0, 0, 0, byte(r.Int())}
			h := chunk.Header{Type: chunk.TypeVideo}
			switch {
			case !video || l.Head() > 1 && r.IntN(3) == 0:
				h.Type, body = chunk.TypeAudio, []byte{0x2f, 0}
			case l.Head() == 1 || r.IntN(4) == 0:
				body[0] = 0x17
			}
			h.Length = len(body)
			fr := f.Frame(h, body)
			return l.Append(fr, false, 0)
		}
		o := Options{Layout: chunk.Layout{StreamID: 1, Size: 128 + r.IntN(2)}, Size: 128}
		write()
		l.Start(&old, o)
		var sent []uint64
		at := uint64(0) // where it must stop at the latest
		for i := 0; !old.Done(); i++ {
			m := write()
			if i == 20 {
				sent = append(sent, all(r, &old)...)
				old.StopAtKeyframe()
				continue
			}
			if i > 20 && at == 0 && (m.Keyframe || !l.video.Load()) {
				at = m.Seq
			}
			if r.IntN(3) == 0 {
				sent = append(sent, all(r, &old)...)
			}
		}
		require.Empty(t, all(r, &old))
		o.From = old.Next()
		l.Start(&next, o)
		l.Slowest = func() uint64 { return next.Next() }
		require.LessOrEqual(t, o.From, l.Head()-1)
		first := l.Get(o.From)
		require.True(t, first.Keyframe || !l.video.Load(), "seed %d", seed)
		require.True(t, at == 0 || at == o.From, "seed %d", seed)
		for range 20 {
			write()
		}
		sent = append(sent, all(r, &next)...)
		for i, seq := range sent {
			require.Equal(t, uint64(i+1), seq, "seed %d", seed)
		}
		require.Len(t, sent, int(l.Head()-1), "seed %d", seed)
		_, waited := next.Skipped()
		require.Zero(t, waited, "seed %d", seed)
	}
}

// Where no keyframe comes, a cursor stops after a while all the same, and goes on from
// there without waiting for one if it is to.
func TestStopWithoutAKeyframe(t *testing.T) {
	f := newFeed(wide)
	f.Slowest = func() uint64 { return 1 }
	f.video(avcHeader, avcKey)
	c := f.start(false)
	for next(t, c) != nil {
	}
	c.StopAtKeyframe()
	for range 11 {
		f.after(time.Second, f.video, avcInter)
		require.Len(t, next(t, c), 1)
		require.False(t, c.Done())
	}
	m := f.after(time.Second, f.video, avcInter)
	require.Nil(t, next(t, c))
	require.True(t, c.Done())
	require.Equal(t, m.Seq, c.Next())
	require.False(t, f.Begins(m.Seq))
	require.True(t, f.Begins(f.key.Load().Seq))

	o := c.opt
	o.From = c.Next()
	again := new(Cursor)
	f.Start(again, o)
	require.Len(t, next(t, again), 2, "with the sequence header")
	_, waited := again.Skipped()
	require.Zero(t, waited)
}
