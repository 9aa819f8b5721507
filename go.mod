module github.com/rtmp-forward/forward

go 1.26.0

require (
	github.com/KimMachineGun/automemlimit v1.0.1
	github.com/nareix/joy4 v0.0.0-20200507095837-05a4ffbb5369
	github.com/stretchr/testify v1.12.1
	golang.org/x/sync v0.25.0
)

require (
	github.com/pbnjay/memory v0.0.0-20210728143218-7b4eea64cf58 // indirect
	go.yaml.in/yaml/v3 v3.0.5 // indirect
)
