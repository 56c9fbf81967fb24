select m.version_num::text from "pgqueue".migration m
