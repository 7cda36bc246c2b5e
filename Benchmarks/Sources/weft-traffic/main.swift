Traffic.main()
