module tracebaton/bench/broker

go 1.22
