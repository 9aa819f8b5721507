package e2e

import (
	"github.com/rtmp-forward/forward/internal/rtmptest"
)

// Short names for tables of wire data.
var (
	u24, u32                   = rtmptest.U24, rtmptest.U32
	type0, type1, type2, type3 = rtmptest.Type0, rtmptest.Type1, rtmptest.Type2, rtmptest.Type3
	messageOf                  = rtmptest.Message
	subMessage                 = rtmptest.SubMessage
	call                       = rtmptest.Call
	connecting, connectWith    = rtmptest.Connect, rtmptest.ConnectWith
	createStream               = rtmptest.CreateStream
	publishStream              = rtmptest.Publish
	opening                    = rtmptest.Opening
)

const (
	setChunkSize   = rtmptest.SetChunkSize4096
	setDataFrame   = rtmptest.SetDataFrame
	clearDataFrame = rtmptest.ClearDataFrame
	onMetaData     = rtmptest.OnMetaData
	h264Header     = rtmptest.H264Header
	h264Key        = rtmptest.H264Key
	h264Inter      = rtmptest.H264Inter
	aacConfig      = rtmptest.AACConfig
	aacData        = rtmptest.AACData
)
