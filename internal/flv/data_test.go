package flv

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

const (
	amf0Set      = "\x02\x00\x0d@setDataFrame"
	amf0Clear    = "\x02\x00\x0f@clearDataFrame"
	amf0MetaData = "\x02\x00\x0aonMetaData"
	amf0Null     = "\x05"
)

var dataMessages = []struct {
	name string
	body string
	amf3 bool
	want DataTag
}{
	{"empty", "", false, DataTag{}},
	{"empty AMF3", "", true, DataTag{}},
	{"onMetaData", amf0MetaData + amf0Null, false, DataTag{OnMetaData: true}},
	{"@setDataFrame onMetaData", amf0Set + amf0MetaData + amf0Null, false, DataTag{OnMetaData: true, Set: true, Payload: 16}},
	{"@setDataFrame of another name", amf0Set + "\x02\x00\x0aonCuePoint", false, DataTag{Set: true, Payload: 16}},
	{"@setDataFrame alone", amf0Set, false, DataTag{Set: true, Payload: 16}},
	{"@clearDataFrame onMetaData", amf0Clear + amf0MetaData, false, DataTag{OnMetaData: true, Clear: true}},
	{"@clearDataFrame alone", amf0Clear, false, DataTag{Clear: true}},
	{"onTextData", "\x02\x00\x0aonTextData", false, DataTag{}},
	{"long string", "\x0c\x00\x00\x00\x0d@setDataFrame\x0c\x00\x00\x00\x0aonMetaData", false, DataTag{OnMetaData: true, Set: true, Payload: 18}},
	{"long string of 4 GiB", "\x0c\xff\xff\xff\xffonMetaData", false, DataTag{}},
	{"a longer name", "\x02\x00\x0bonMetaData2", false, DataTag{}},
	{"first value a number", "\x00\x00\x00\x00\x00\x00\x00\x00\x00", false, DataTag{}},
	{"four bytes of time code", "\x00\x00\x12\x34", false, DataTag{}},
	{"string cut off", "\x02\x00\x0aonMeta", false, DataTag{}},
	{"AMF3, AMF0 strings", "\x00" + amf0Set + amf0MetaData, true, DataTag{OnMetaData: true, Set: true, Head: 1, Payload: 17}},
	{"AMF3 strings", "\x00\x11\x06\x1b@setDataFrame\x11\x06\x15onMetaData\x11\x01", true, DataTag{OnMetaData: true, Set: true, Head: 1, Payload: 17}},
	{"AMF3 string reference", "\x00\x11\x06\x00", true, DataTag{Head: 1, Payload: 1}},
	{"AMF3 without a format selector", amf0MetaData, true, DataTag{OnMetaData: true}},
	{"format selector alone", "\x00", true, DataTag{Head: 1, Payload: 1}},
}

func TestData(t *testing.T) {
	for _, c := range dataMessages {
		require.Equal(t, c.want, Data([]byte(c.body), c.amf3), c.name)
		for n := range c.body {
			d := Data([]byte(c.body[:n]), c.amf3)
			require.LessOrEqual(t, d.Payload, n, "%s[:%d]", c.name, n)
			require.False(t, d.OnMetaData && !c.want.OnMetaData, "%s[:%d]", c.name, n)
		}
	}
	require.Equal(t, amf0Set, SetDataFrame)
}

func FuzzData(f *testing.F) {
	for _, c := range dataMessages {
		f.Add([]byte(c.body), c.amf3)
	}
	f.Fuzz(func(t *testing.T, body []byte, amf3 bool) {
		d := Data(body, amf3)
		require.True(t, 0 <= d.Head && d.Head <= d.Payload && d.Payload <= len(body))
		require.Equal(t, d.Set, d.Payload > d.Head)
		require.False(t, d.Set && d.Clear)

		plain := slices.Concat(body[:d.Head], body[d.Payload:])
		p := Data(plain, amf3)
		if p.Head != d.Head {
			return // the rest is empty and begins like a format selector
		}
		set := slices.Concat(body[:d.Head], []byte(SetDataFrame), body[d.Payload:])
		s := Data(set, amf3)
		require.True(t, s.Set)
		require.Equal(t, plain, slices.Concat(set[:s.Head], set[s.Payload:]))
		if !p.Set && !p.Clear {
			require.Equal(t, p.OnMetaData, s.OnMetaData)
			require.Equal(t, p.OnMetaData, d.OnMetaData)
		}
	})
}
