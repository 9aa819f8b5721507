package e2e

import (
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward"
	"github.com/rtmp-forward/forward/forwardtest"
)

// Changes while a stream is live: existing receivers get them in order, and receivers
// that join later get what is in force at their start.
func TestChangesInTheMiddle(t *testing.T) {
	meta := func(s string) forwardtest.Message {
		return forwardtest.Message{Type: forward.TagData, Payload: []byte("\x02\x00\x0aonMetaData\x02\x00\x01" + s)}
	}
	header, key, inter := video(h264Header), video(h264Key), video(h264Inter)
	aac, sound := audio(aacConfig), audio(aacData)
	mp3 := audio("\x2f\xff\xfb\x90\x64")
	hevc, hevcKey, hevcInter := video("\x90hvc1\x01\x01\x60"), video("\x93hvc1\x26"), video("\xa3hvc1\x02")
	second, secondKey, secondInter := video("\x96\x00avc1\x01\x01\x64\x00\x20"), video("\x96\x03avc1\x01\x65"), video("\xa6\x03avc1\x01\x41")
	secondEnd, firstEnd := video("\x96\x02avc1\x01"), video("\x96\x02avc1\x00")

	for _, c := range []struct {
		name string
		in   packets
		late packets
	}{
		{"nothing", packets{header, aac, key, sound, inter}, packets{header, aac, key, sound, inter}},
		{"a new sequence header", packets{header, key, video(h264Header + "2"), key, inter}, packets{video(h264Header + "2"), key, inter}},
		{"a new sequence header within the GOP", packets{header, key, inter, video(h264Header + "2"), inter}, packets{header, key, inter, video(h264Header + "2"), inter}},
		{"another codec", packets{header, aac, key, inter, hevc, hevcKey, hevcInter}, packets{hevc, aac, hevcKey, hevcInter}},
		{"another codec and back", packets{hevc, hevcKey, header, key, hevc, hevcKey}, packets{hevc, hevcKey}},
		{"another codec without header", packets{header, aac, key, sound, mp3, key, mp3, inter}, packets{header, key, mp3, inter}},
		{"another codec without header within the GOP", packets{header, aac, key, sound, mp3}, packets{header, aac, key, sound, mp3}},
		{"new metadata", packets{meta("a"), header, key, meta("b"), inter, key}, packets{meta("b"), header, key}},
		{"metadata that comes late", packets{header, key, meta("a"), key}, packets{meta("a"), header, key}},
		{"audio that begins late", packets{header, key, inter, aac, sound, key, sound}, packets{header, aac, key, sound}},
		{"audio that begins within the GOP", packets{header, key, inter, aac, sound}, packets{header, key, inter, aac, sound}},
		{"video that begins late", packets{aac, sound, sound, header, key, sound}, packets{aac, header, key, sound}},
		{"a track that appears", packets{header, key, second, secondKey, key, secondInter, inter}, packets{header, second, key, secondInter, inter}},
		{"a track that ends", packets{header, second, key, secondKey, secondEnd, key, inter}, packets{header, second, key, inter}},
		{"the main track ends", packets{header, second, key, secondKey, firstEnd, secondInter, secondKey, secondInter}, packets{header, second, secondKey, secondInter}},
		{"the main track comes back", packets{header, second, key, firstEnd, secondKey, header, key, secondKey, inter}, packets{header, second, key, secondKey, inter}},
		{"end of sequence, then the same header", packets{header, key, video("\x17\x02\x00\x00\x00"), key, inter}, packets{header, key, inter}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var network forwardtest.Network
				dest := network.NewDestination("dest:1935")
				defer dest.Close()
				s := newServer(t, forward.Config{MergeWindow: -1, Dial: network.Dial, Resolver: to(forward.Destination{URL: "rtmp://dest/app/" + canary, PlainMetadata: true})})
				defer s.Close()
				pub, err := forwardtest.Client{Dial: forwardtest.Direct(s)}.Publish(t.Context())
				require.NoError(t, err)
				defer pub.Close()
				synctest.Wait()
				for i, m := range c.in {
					m.Timestamp = uint32(40 * i)
					require.NoError(t, pub.WriteMessage(m))
				}
				synctest.Wait()
				require.Equal(t, payloads(c.in), payloads(dest.Sessions()[0].Recorder().Messages()))
				player, err := forwardtest.Client{Dial: forwardtest.Direct(s)}.Play(t.Context(), nil)
				require.NoError(t, err)
				defer player.Close()
				synctest.Wait()
				require.Equal(t, payloads(c.late), payloads(player.Recorder().Messages()))
			})
		})
	}
}

// OnCodecChange is called when the sequence header in force for a track changes, and
// only then.
func TestOnCodecChange(t *testing.T) {
	header, key, inter := video(h264Header), video(h264Key), video(h264Inter)
	aac, sound := audio(aacConfig), audio(aacData)
	mp3 := audio("\x2f\xff\xfb\x90\x64")
	larger := video(h264Header + "2")
	hevc, hevcKey := video("\x90hvc1\x01\x01\x60"), video("\x93hvc1\x26")
	second, secondKey := video("\x96\x00avc1\x01\x01\x64\x00\x20"), video("\x96\x03avc1\x01\x65")
	meta := forwardtest.Message{Type: forward.TagData, Payload: []byte(onMetaData)}

	for _, c := range []struct {
		name string
		in   packets
		want []string // the codecs at the time of the call
	}{
		{"nothing", packets{meta, header, aac, key, sound, inter}, nil},
		{"the same headers again", packets{header, aac, key, sound, header, aac, key, sound}, nil},
		{"audio that begins late", packets{header, key, inter, aac, sound}, nil},
		{"a track that appears", packets{header, key, second, key, secondKey}, nil},
		{"other metadata", packets{meta, header, key, {Type: forward.TagData, Payload: []byte(onMetaData + "x")}, key}, nil},
		{"another size", packets{header, aac, key, larger, key}, []string{"avc1 mp4a"}},
		{"another codec", packets{header, aac, key, hevc, hevcKey}, []string{"hvc1 mp4a"}},
		{"another codec without header", packets{header, aac, key, sound, mp3}, []string{"avc1 .mp3"}},
		{"and back", packets{header, key, larger, key, header, key}, []string{"avc1 ", "avc1 "}},
		{"all the time", slices.Repeat(packets{header, larger}, 50), slices.Repeat([]string{"avc1 "}, 5)}, // in 4 s
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var told []string
				s := newServer(t, forward.Config{Hooks: forward.Hooks{OnCodecChange: func(src *forward.Source) {
					st := src.Stats()
					told = append(told, st.VideoCodec+" "+st.AudioCodec)
				}}})
				p := publish(t, s, "live", "s")
				for i, m := range c.in {
					require.NoError(t, p.WriteTag(m.Type, uint32(40*i), m.Payload))
					time.Sleep(40 * time.Millisecond)
				}
				time.Sleep(time.Minute)
				synctest.Wait()
				require.Equal(t, c.want, told)
				require.Equal(t, len(told) > 0, p.Source().Stats().CodecChanges > 0)
			})
		})
	}
}

// With a next publisher, what counts is its header in force when its media starts.
func TestOnCodecChangeBetweenPublishers(t *testing.T) {
	for header, want := range map[string]int{h264Header: 0, h264Header + "2": 1} {
		synctest.Test(t, func(t *testing.T) {
			var told atomic.Int32
			s := newServer(t, forward.Config{Takeover: true, Hooks: forward.Hooks{OnCodecChange: func(*forward.Source) { told.Add(1) }}})
			first := publish(t, s, "live", "s")
			for _, b := range []string{h264Header, h264Key} {
				require.NoError(t, first.WriteTag(forward.TagVideo, 0, []byte(b)))
			}
			require.NoError(t, first.WriteTag(forward.TagAudio, 0, []byte(aacConfig)))
			next := publish(t, s, "live", "s")
			require.NoError(t, next.WriteTag(forward.TagAudio, 0, []byte(aacConfig)))
			for _, b := range []string{header, h264Key, h264Inter} {
				require.NoError(t, next.WriteTag(forward.TagVideo, 0, []byte(b)))
			}
			time.Sleep(time.Minute)
			require.EqualValues(t, want, told.Load())
			next.Close()
			first.Close()
		})
	}
}
