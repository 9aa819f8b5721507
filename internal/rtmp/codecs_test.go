package rtmp

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/rtmp-forward/forward/internal/amf"
)

func TestCodecsThatAServerLists(t *testing.T) {
	list := func(names ...any) amf.Property { return amf.Property{Key: "fourCcList", Value: amf.StrictArray(names)} }
	infos := func(key string, flags float64, names ...string) amf.Property {
		var o amf.Object
		for _, name := range names {
			o = append(o, amf.Property{Key: name, Value: flags})
		}
		return amf.Property{Key: key, Value: o}
	}
	for name, row := range map[string]struct {
		says         amf.Object
		video, audio []string
	}{
		"nothing":               {nil, nil, nil},
		"the list":              {amf.Object{list("av01", 7, "hvc1", "Opus", "av01")}, []string{"av01", "hvc1"}, []string{"Opus"}},
		"all":                   {amf.Object{list("*")}, []string{"*"}, []string{"*"}},
		"maps":                  {amf.Object{infos("videoFourCcInfoMap", canDecode, "hvc1"), infos("audioFourCcInfoMap", canForward, "Opus")}, []string{"hvc1"}, []string{"Opus"}},
		"a map and the list":    {amf.Object{list("av01", "Opus"), infos("videoFourCcInfoMap", canDecode, "hvc1")}, []string{"hvc1"}, []string{"Opus"}},
		"what it only encodes":  {amf.Object{infos("videoFourCcInfoMap", 2, "hvc1")}, nil, nil},
		"everything and itself": {amf.Object{infos("videoFourCcInfoMap", canDecode, "*", "hvc1")}, []string{"*", "hvc1"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			var c codecs
			c.learn(&Command{Args: []any{row.says}})
			video, audio := c.names()
			slices.Sort(video)
			require.Equal(t, row.video, video)
			require.Equal(t, row.audio, audio)
		})
	}
}
