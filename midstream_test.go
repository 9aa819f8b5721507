package forward

import (
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward/forwardtest"
)

// What changes while a stream is live: who is there gets it in its place, who
// comes later gets what is in force where he begins.
func TestChangesInTheMiddle(t *testing.T) {
	meta := func(s string) forwardtest.Message {
		return forwardtest.Message{Type: TagData, Payload: []byte("\x02\x00\x0aonMetaData\x02\x00\x01" + s)}
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
		{"end of sequence and on with the same header", packets{header, key, video("\x17\x02\x00\x00\x00"), key, inter}, packets{header, key, inter}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var network forwardtest.Network
				dest := network.NewDestination("dest:1935")
				defer dest.Close()
				s := newServer(t, Config{MergeWindow: -1, Dial: network.Dial, Resolver: to(Destination{URL: "rtmp://dest/app/" + canary, PlainMetadata: true})})
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
