package rtmptest

// Bodies of tags, as far as the library inspects them.
var (
	VideoHeader = []byte{0x17, 0, 0, 0, 0, 1, 0x64, 0, 0x1f, 0xff}
	Metadata    = []byte("\x02\x00\x0aonMetaData\x08\x00\x00\x00\x00\x00\x00\x09")
)

// Frame is an H.264 frame that contains a number.
func Frame(key bool, n int) []byte {
	b := []byte{0x27, 1, 0, 0, 0, byte(n >> 16), byte(n >> 8), byte(n)}
	if key {
		b[0] = 0x17
	}
	return b
}

// Bodies of messages, for tables.
const (
	H264Header   = "\x17\x00\x00\x00\x00\x01\x64\x00\x1f"
	H264Key      = "\x17\x01\x00\x00\x00\x00\x00\x00\x01\x65"
	H264Inter    = "\x27\x01\x00\x00\x00\x00\x00\x00\x01\x41"
	AACConfig    = "\xaf\x00\x12\x10"
	AACData      = "\xaf\x01\x21\x10"
	SetDataFrame = "\x02\x00\x0d@setDataFrame"
	// ClearDataFrame deletes what SetDataFrame has set.
	ClearDataFrame = "\x02\x00\x0f@clearDataFrame"
	OnMetaData     = "\x02\x00\x0aonMetaData\x03\x00\x08duration\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x09"
)
