module github.com/rtmp-forward/forward

go 1.26.0

require (
	github.com/nareix/joy4 v0.0.0-20200507095837-05a4ffbb5369
	github.com/stretchr/testify v1.12.1
	golang.org/x/sync v0.25.0
)

require go.yaml.in/yaml/v3 v3.0.5 // indirect
