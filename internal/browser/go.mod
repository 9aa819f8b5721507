module github.com/rtmp-forward/forward/internal/browser

go 1.26.0

require (
	github.com/chromedp/cdproto v0.160.1
	github.com/chromedp/chromedp v0.23.1
	github.com/rtmp-forward/forward v0.0.0-00010101000000-000000000000
	github.com/stretchr/testify v1.12.1
)

require (
	github.com/abema/go-mp4 v1.7.1 // indirect
	github.com/bluenviron/mediacommon/v2 v2.9.3 // indirect
	github.com/go-json-experiment/json v0.0.0-20260213210345-44df1a37e875 // indirect
	github.com/google/uuid v1.6.0 // indirect
	github.com/nareix/joy4 v0.0.0-20200507095837-05a4ffbb5369 // indirect
	go.yaml.in/yaml/v3 v3.0.5 // indirect
)

replace github.com/rtmp-forward/forward => ../..
