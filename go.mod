module github.com/rtmp-forward/forward

go 1.26

require (
	github.com/nareix/joy4 v0.0.0-20200507095837-05a4ffbb5369
	github.com/stretchr/testify v1.12.1
)

require go.yaml.in/yaml/v3 v3.0.5 // indirect
