package gop

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/rtmp-forward/forward/internal/chunk"
	"github.com/stretchr/testify/require"
)

func TestTimes(t *testing.T) {
	const (
		a, v, k, d, h = 'a', 'v', 'k', 'd', 'h' // audio, video, a keyframe, data, a video header
	)
	type step struct {
		what rune
		in   uint32
		out  uint32
	}
	zero, increasing := Times{Zero: true}, Times{Increasing: true}
	for _, c := range []struct {
		name  string
		times Times
		steps []step
	}{
		{"begins with 0", zero, []step{{k, 5000, 0}, {a, 5010, 10}, {v, 5040, 40}, {d, 5041, 41}}},
		{"begins with data", zero, []step{{d, 5000, 0}, {k, 5000, 0}, {v, 5040, 40}}},
		{"begins with a header", zero, []step{{d, 0, 0}, {h, 0, 0}, {k, 90000, 0}, {v, 90040, 40}, {a, 90010, 10}}},
		{"headers at the time of the media", zero, []step{{h, 5000, 0}, {k, 5000, 0}, {h, 5040, 40}, {v, 5040, 40}}},
		{"a header of a track to come", zero, []step{{a, 5000, 0}, {h, 5010, 10}, {k, 5020, 20}}},
		{"what is older than the first", zero, []step{{k, 5000, 0}, {a, 4990, 0}, {a, 5011, 11}, {v, 5040, 40}}},
		{"as they are otherwise", zero, []step{{k, 5000, 0}, {v, 5000, 0}, {v, 4999, 0}, {v, 9000, 4000}, {v, 8000, 3000}}},
		{"across 2^32", zero, []step{{k, 0xffffffd8, 0}, {v, 0, 40}, {v, 40, 80}}},
		{"audio with an origin of its own", zero, []step{{k, 5000, 0}, {v, 5040, 40}, {a, 90000000, 40}, {v, 5080, 80}, {a, 90000021, 61}, {d, 90000021, 61}}},
		{"video with an earlier one", zero, []step{{a, 90000000, 0}, {a, 90000021, 21}, {k, 5000, 21}, {a, 90000042, 42}, {v, 5040, 61}}},
		{"audio that begins late", zero, []step{{k, 5000, 0}, {v, 14000, 9000}, {v, 30000, 25000}, {a, 30010, 25010}}},
		{"anew before 2^31", zero, []step{{k, 1, 0}, {v, 1<<31 - 3600000, 1<<31 - 3600001}, {v, 1<<31 - 3600000 + 1, 1<<31 - 3600000},
			{v, 1<<31 - 3599000, 1<<31 - 3599001}, {k, 1<<31 - 3598960, 0}, {a, 1<<31 - 3598950, 10}, {v, 1<<31 - 3598920, 40}}},

		{"already increasing", increasing, []step{{k, 5000, 5000}, {a, 5010, 5010}, {v, 5040, 5040}, {d, 5040, 5040}}},
		{"they stand still", increasing, []step{{k, 5000, 5000}, {v, 5000, 5001}, {a, 5000, 5002}, {v, 5000, 5003}}},
		{"out of order", increasing, []step{{k, 5000, 5000}, {a, 4980, 5001}, {a, 5003, 5003}, {v, 5002, 5004}, {v, 5040, 5040}}},
		{"data not before media", increasing, []step{{k, 5000, 5000}, {d, 4000, 5000}, {d, 5001, 5001}, {a, 5001, 5001}}},
		{"headers as media", increasing, []step{{k, 5000, 5000}, {h, 5000, 5001}, {v, 5000, 5002}, {h, 5040, 5040}, {v, 5040, 5041}}},
		{"a header far ahead", increasing, []step{{k, 5000, 5000}, {h, 90000, 5001}, {v, 5040, 5040}}},
		{"header first", increasing, []step{{h, 0, 0}, {k, 5000, 5000}, {a, 4990, 5001}}},
		{"data first", increasing, []step{{d, 0, 0}, {k, 5000, 5000}}},
		{"origins of their own", increasing, []step{{k, 90000000, 90000000}, {a, 5000, 90000001}, {v, 90000040, 90000040}, {a, 5021, 90000041}, {a, 5063, 90000064}}},
		{"a header with the time 0", increasing, []step{{k, 90000, 90000}, {v, 0, 90001}, {v, 90040, 90040}, {v, 90080, 90080}}},
		{"across 2^32", increasing, []step{{k, 0xffffffff, 0xffffffff}, {v, 0xffffffff, 0}, {a, 0, 1}, {v, 40, 40}}},
		{"a clock that is set back", increasing, []step{{k, 90000, 90000}, {v, 40, 90001}, {v, 80, 90041}, {v, 120, 90081}}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var s times
			for i, st := range c.steps {
				m := &Message{Time: st.in, Type: map[rune]uint8{a: chunk.TypeAudio, v: chunk.TypeVideo, k: chunk.TypeVideo, h: chunk.TypeVideo, d: chunk.TypeData}[st.what]}
				m.Media = st.what != h && st.what != d
				require.Equal(t, st.out, c.times.time(&s, m, st.what == k), "step %d", i)
			}
		})
	}
}

// A batch may be sent up to any byte, with times of its own, too.
func TestTimes_SentInPart(t *testing.T) {
	for _, times := range []Times{{Zero: true}, {Increasing: true}} {
		for _, l := range []chunk.Layout{layouts[0], layouts[3]} {
			t.Run(fmt.Sprintf("zero %v, chunks of %d", times.Zero, l.Size), func(t *testing.T) {
				f := stream()
				f.time -= 20
				f.video(avcInter, avcInter) // the times of the two before
				start := func() *Cursor {
					own, c := times, new(Cursor)
					f.Start(c, Options{Layout: l, Size: chunkSize, Times: &own})
					c.next.Store(4)
					return c
				}
				want := drain(t, start(), 1<<20)
				plain := drain(t, began(f, l, false), 1<<20)
				require.NotEqual(t, plain, want)
				require.Len(t, want, len(plain), "but for times the same")
				for _, limit := range []int{1, 200, 1 << 20} {
					for n := range want {
						c := start()
						var b Batch
						b.Fill(c, limit)
						if n > b.Len() {
							break
						}
						sent := bytes.Join(b.IOV(), nil)[:n]
						_, _, rest := b.Sent(c, n)
						b.Fill(f.startWith(layouts[4], false), 1<<20)
						got := append(sent, bytes.Join(rest, nil)...)
						require.Equal(t, want, append(got, drain(t, c, 1<<20)...), "%d bytes, limit %d", n, limit)
					}
				}
			})
		}
	}
}
