package gop

import (
	"encoding/binary"
	"fmt"
	"runtime"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward/internal/chunk"
)

func heap() int {
	runtime.GC()
	runtime.GC() // what sync.Pools keep for one more
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}

// numbered returns body, longer by size bytes that are the same in no two calls.
func numbered(body []byte, size int) func() []byte {
	n := 0
	return func() []byte {
		n++
		return append(binary.BigEndian.AppendUint32(append([]byte(nil), body...), uint32(n)), make([]byte, size)...)
	}
}

// What a Log is charged for is what it takes of the heap, whatever its messages
// are, while it fills, when it has been trimmed, and when it has shrunk to a
// message.
func TestHeldIsWhatIsTaken(t *testing.T) {
	const logs = 4
	type message struct {
		typ  uint8
		body func() []byte
	}
	rows := map[string][]message{
		"metadata of 240 KB":         {{chunk.TypeData, numbered(metadata, 240_000)}},
		"metadata of 1 KB":           {{chunk.TypeData, numbered(metadata, 1000)}},
		"metadata among media":       {{chunk.TypeData, numbered(metadata, 100_000)}, {chunk.TypeVideo, numbered(avcKey, 100)}, {chunk.TypeVideo, numbered(avcInter, 100)}},
		"sequence headers":           {{chunk.TypeVideo, numbered(avcHeader, 0)}},
		"sequence headers of 3 KB":   {{chunk.TypeVideo, numbered(avcHeader, 3000)}},
		"sequence headers of 200 KB": {{chunk.TypeVideo, numbered(avcHeader, 200_000)}},
		"headers of two kinds":       {{chunk.TypeVideo, numbered(avcHeader, 3000)}, {chunk.TypeAudio, numbered(aacHeader, 300)}, {chunk.TypeData, numbered(metadata, 500)}},
		"audio and video":            {{chunk.TypeVideo, numbered(avcInter, 5000)}, {chunk.TypeAudio, numbered(aacFrame, 300)}, {chunk.TypeAudio, numbered(aacFrame, 300)}},
		"audio and large video":      {{chunk.TypeVideo, numbered(avcInter, 150_000)}, {chunk.TypeAudio, numbered(aacFrame, 300)}},
	}
	for _, size := range []int{0, 10, 100, 700, 1500, 5000, 30_000, 70_000, 500_000} {
		rows[fmt.Sprintf("video of %d B", size)] = []message{{chunk.TypeVideo, numbered(avcInter, size)}}
	}
	rows["messages of two bytes"] = []message{{chunk.TypeAudio, func() []byte { return []byte{0xaf, 0x01} }}}
	for name, messages := range rows {
		t.Run(name, func(t *testing.T) {
			before := heap()
			b := NewBudget(-1)
			var feeds []*feed
			for range logs {
				f := newFeed(Limits{Bytes: 4 << 20, Age: 1 << 62})
				f.SetBudget(b)
				f.framer.MaxSlab = f.MaxSlab
				f.Slowest = func() uint64 { return 1 }
				feeds = append(feeds, f)
			}
			check := func(when string) {
				t.Helper()
				taken := heap() - before
				t.Logf("%s: %d bytes charged, %d taken: %.2f", when, b.Used(), taken, float64(taken)/float64(b.Used()))
				require.LessOrEqual(t, taken, b.Used()*3/2)
				require.GreaterOrEqual(t, taken, b.Used()*2/3)
			}
			fill := func(bytes int) {
				for _, f := range feeds {
					f.framer.Size = chunkSize
					for i := 0; f.bytes < bytes && f.tail.Load() == 1; i++ {
						m := messages[i%len(messages)]
						f.add(m.typ, m.body())
					}
				}
			}
			fill(1 << 20)
			check("a part of it")
			fill(4 << 20)
			check("all of it")
			for _, f := range feeds {
				f.limits.Bytes = 1 << 20
				for i := range messages {
					f.add(messages[i].typ, messages[i].body())
				}
				f.fit(f.ring.Load())
			}
			check("a quarter")
			runtime.KeepAlive(feeds)
		})
	}
}
